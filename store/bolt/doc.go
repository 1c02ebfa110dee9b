// Package bolt keeps a store in one bbolt file, which may be shared by a registrar and a verifier in one process.
//
// Three ideas carry it:
//
//   - One writer goroutine. Every durable change is a function that the writer runs inside a transaction; those that
//     arrive while the disk is busy share the next transaction, and so one fsync. The order of the writer is the
//     order of the changes.
//   - The process owns the file. Leases, due times and the current round of each agent therefore live in memory
//     (index.go) and are loaded when the file is opened. Offers of sessions live in memory only. Claim
//     and Lease write nothing. A round that merely passed changes memory, and reaches the file with hundreds of others
//     within a second, unless it comes with an attestation.
//   - Memory follows the file. While an agent is in the writer's hands nobody else can change it, and what the writer
//     did becomes visible when its transaction has committed, not before. After a failed commit the file is asked
//     whether the transaction happened.
//
// After a crash an agent may be found as it was up to a second before, its status, attestation state and due time
// always of the same round: the three are one record. Appraisal then goes on from the older state, which asks for
// measurements that were seen already.
package bolt
