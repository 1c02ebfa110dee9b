// Package store says what Keylime keeps and the verbs it keeps it by.
//
// Each verb is one atomic, durable transaction unless its comment says otherwise. Engines (store/bolt,
// store/postgres) implement the verbs; store/storetest is the contract as a test suite.
//
// Errors are the sentinels of this package, wrapped with what they are about; callers use errors.Is. A verb that
// returns one of them, or its context's error, has changed nothing. Any other error means that the engine failed:
// the write did not happen, or it did and could not be confirmed; reading tells which.
//
// Times are kept and returned in UTC with microsecond precision. Lists are in byte order of the identifier. A nil
// slice and an empty one stay what they were. What a verb returns belongs to the caller, except attest.State, which
// nobody modifies. All verbs may be called concurrently.
package store
