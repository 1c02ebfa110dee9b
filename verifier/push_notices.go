package verifier

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"keylime/internal/api"
	"keylime/internal/notify"
	"keylime/store"
)

// Agents that call in have no port to tell them about others' failures. The messages lie in the outbox as on a notice
// board, for as long as they are worth anything, and each agent is told with its next answer what it has not
// acknowledged yet.

// channelPush is the notice board's name in the outbox. It is open when agents are told at all.
const channelPush = "push"

// noticeBoard is the channel of messages that nobody carries: when one is due, it has expired.
type noticeBoard struct{}

func (noticeBoard) Send(context.Context, store.Event) error { return nil }

func (noticeBoard) patience() (int, time.Duration) { return 1, 2 * notify.Lifetime }

// meta is what the answer to evidence says beside it.
func (c *calls) meta(ctx context.Context, at store.Attestation, st store.AgentStatus) (*api.Meta, error) {
	seconds := uint64(c.secondsToNext(at, time.Now().UTC()))
	meta := &api.Meta{SecondsToNext: &seconds}
	if slices.Contains(at.Extensions, api.ExtensionPayload) && releases(at, st) {
		rev, err := c.store.PayloadRev(ctx, at.AgentID)
		if err != nil {
			return nil, err
		}
		meta.PayloadRev = rev
	}
	if slices.Contains(at.Extensions, api.ExtensionNotices) {
		notices, err := c.notices(ctx, at.NoticeSeen)
		if err != nil {
			return nil, err
		}
		meta.Notices = notices
	}
	return meta, nil
}

// notices are the next messages that an agent has not taken, a few at a time.
func (c *calls) notices(ctx context.Context, seen uint64) ([]api.NoticeOnWire, error) {
	events, err := c.store.Notices(ctx, channelPush, seen, maxNotices)
	if err != nil {
		return nil, err
	}
	var list []api.NoticeOnWire
	bytes := 0
	for _, e := range events {
		if bytes += len(e.Message); bytes > maxNoticeBytes && len(list) > 0 {
			break
		}
		list = append(list, api.NoticeOnWire{ID: e.ID, Message: json.RawMessage(e.Message)})
	}
	return list, nil
}
