package verifier

import (
	"encoding/json"
	"strings"

	"github.com/rs/zerolog"

	"keylime/internal/attest"
)

// report logs what a round came to. Operators' monitors wait for some of these texts, which is why a failure's own
// text is the message.
func (c *cycle) report(log zerolog.Logger, id string, s step, n next) {
	switch s.result.outcome {
	case quoteGood:
		log.Debug().Int("entries", s.stats.Entries).Msg("Attestation passed")
	case vDelivered:
		log.Info().Msg("V delivered")
	case quoteBad:
		c.reportVerdict(log, s)
	case quoteAgain:
		log.Info().Str("reason", s.result.detail).Msg("Nothing decided; asking again")
	default:
		log.Warn().Int("attempt", n.status.Retries).Str("reason", s.result.detail).Msg("Agent did not give a quote")
	}
	if n.stop {
		e := log.Warn()
		if n.failure != nil {
			e = e.Str("event_id", n.failure.EventID).Str("severity", n.failure.Severity.Label)
		}
		e.Msgf("Agent %s failed, stopping polling", id)
	}
}

func (c *cycle) reportVerdict(log zerolog.Logger, s step) {
	ima := false
	for _, f := range s.result.verdict.Failures {
		ima = ima || strings.HasPrefix(f.EventID, "ima.")
		log.Warn().Str("event_id", f.EventID).Str("severity", f.Severity.Label).Msg(failureText(f))
	}
	if ima {
		log.Error().Int("failures", s.stats.Failures).Msg("IMA ERRORS: Some entries couldn't be validated")
	}
}

// failureText is a failure in one line: the message of its context when there is one, else the whole context.
func failureText(f attest.Failure) string {
	var context struct {
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(f.Context), &context) == nil && context.Message != "" {
		return context.Message
	}
	return f.EventID + " " + f.Context
}
