package tenant

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"keylime/internal/api"
)

// stageUpdate replaces a runtime policy whose present text goes on to count for a while.
func stageUpdate(ctx context.Context, t *tenant, o *options) (report, error) {
	k := runtimePolicies()
	name, err := k.theName(o)
	if err != nil {
		return nil, err
	}
	duration, err := o.stageDuration()
	if err != nil {
		return nil, err
	}
	proposed, key, err := t.proposal(ctx, o)
	if err != nil {
		return nil, err
	}
	body := api.RuntimePolicyStage{ProposedPolicy: &proposed, RuntimePolicyKey: &key, Seconds: int64(duration / time.Second)}
	return k.run(ctx, t, name, func(ctx context.Context, c *api.VerifierClient, v, name string) (policyReport, error) {
		w, err := c.StageRuntimePolicy(ctx, v, name, body)
		return policyReport{
			did:    "updated; until " + w.Until.Local().Format(time.RFC1123) + " what it replaces is accepted as well",
			answer: answer{http.StatusCreated, "Created", w},
		}, err
	})
}

func (o *options) stageDuration() (time.Duration, error) {
	if o.stageFor == "" {
		return 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(o.stageFor)
	if err != nil || d < time.Second {
		return 0, usage("write it as 90m or 24h", "--for %s: no length of time", clean(o.stageFor))
	}
	return d, nil
}

// proposal is the new version of a runtime policy that the options name, and the key that it is signed with; base64.
func (t *tenant) proposal(ctx context.Context, o *options) (text, key string, err error) {
	content, signer, err := t.runtimePolicy(ctx, o)
	if err == nil && content == nil {
		err = usage("give --runtime-policy FILE or --runtime-policy-url URL", "no runtime policy given")
	}
	return base64.StdEncoding.EncodeToString(content), base64.StdEncoding.EncodeToString(signer), err
}
