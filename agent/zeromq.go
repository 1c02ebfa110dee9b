package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/rs/zerolog"

	"keylime/internal/api"
	"keylime/internal/zmtp"
)

// subscription listens to the verifier's ZeroMQ publisher, a second way for revocations to come. Anybody could be that
// publisher; a message is believed for its signature alone, as one that came over REST is.
type subscription struct {
	address string
	submit  func(api.Notification) bool
	retry   backoff
	log     zerolog.Logger
}

const (
	publisherTimeout = 10 * time.Second // to connect and shake hands
	steadyConnection = time.Minute      // after which the waits between attempts start anew
)

// run subscribes until ctx ends, and again when the connection ends: publishers come and go.
func (s subscription) run(ctx context.Context) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		start := time.Now()
		err := s.listen(ctx)
		if time.Since(start) > steadyConnection {
			attempt = 0
		}
		level := zerolog.DebugLevel
		if attempt == 0 {
			level = zerolog.WarnLevel
		}
		s.log.WithLevel(level).Err(err).Str("publisher", s.address).Msg("no connection to the publisher of revocations")
		select {
		case <-ctx.Done():
		case <-time.After(s.retry.wait(attempt)):
		}
	}
}

// listen receives messages until the connection ends.
func (s subscription) listen(ctx context.Context) error {
	dialer := net.Dialer{Timeout: publisherTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(publisherTimeout)); err != nil {
		return err
	}
	if err := zmtp.Handshake(conn, "SUB"); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	// 1 and an empty topic subscribe to everything.
	if err := zmtp.WriteFrame(conn, zmtp.Frame{Body: []byte{1}}); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	s.log.Info().Str("publisher", s.address).Msg("listening to the publisher of revocations")
	for more := false; ; {
		frame, err := zmtp.ReadFrame(conn, maxBody)
		if err != nil {
			return err
		}
		if whole := !more && !frame.More && !frame.Command; whole {
			s.receive(frame.Body)
		}
		more = frame.More
	}
}

// receive takes one message, the JSON text of a notification.
func (s subscription) receive(text []byte) {
	fields, err := decodeFields(string(text), []string{"msg", "signature"})
	if err != nil {
		s.log.Warn().Err(err).Str("audit", "revocation").Msg("message of the publisher ignored")
		return
	}
	if !s.submit(api.Notification{Msg: fields["msg"], Signature: fields["signature"]}) {
		s.log.Error().Str("audit", "revocation").Msg("message of the publisher dropped: too many revocations wait")
	}
}
