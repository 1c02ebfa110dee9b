package policy

import "fmt"

// Beside returns a policy that accepts what r accepts, and what old accepts: for the time in which machines change from
// the one to the other. What neither accepts is reported as r reports it, and the digest is r's,
// as is the dm_policy, which does not mix.
//
// One measurement list has one algorithm of template hashes, and its device-mapper entries tell one history, which is held
// to one set of rules: the two must have the same. The error is an *Error.
func (r *Runtime) Beside(old *Runtime) (*Runtime, error) {
	const refusal = "Runtime policy cannot take the place of the present one in stages: "
	if r.logHash != old.logHash {
		return nil, &Error{refusal + fmt.Sprintf("its log_hash_alg is %v, the present one's %v", r.logHash, old.logHash)}
	}
	if r.deviceRules() != old.deviceRules() {
		return nil, &Error{refusal + "its dm_policy is not the present one's"}
	}
	both := *r
	both.old = old
	both.keys = r.keys.With(old.keys.Keys()...)
	return &both, nil
}

// deviceRules names the version of the dm_policy, "" for none.
func (r *Runtime) deviceRules() string {
	if r.deviceMapper == nil {
		return ""
	}
	return r.deviceMapper.Digest()
}

// orOld is f, unless the policy that is being replaced, r.old, accepts what r does not.
func (r *Runtime) orOld(f Finding, judge func(old *Runtime) Finding) Finding {
	if f.Reason == Accepted || judge(r.old).Reason != Accepted {
		return f
	}
	return Finding{}
}
