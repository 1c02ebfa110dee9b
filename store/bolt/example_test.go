package bolt_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"keylime/store"
	"keylime/store/bolt"
)

// A verifier enrols an agent, and runs its first round.
func Example() {
	dir, err := os.MkdirTemp("", "keylime")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := bolt.Open(filepath.Join(dir, "keylime.db"), bolt.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	ctx, now := context.Background(), time.Now()
	agent := store.Agent{ID: "agent-1", Spec: store.AgentSpec{VerifierID: "default"}, Due: now}
	if err := db.AddAgent(ctx, agent); err != nil {
		log.Fatal(err)
	}
	leases, err := db.Claim(ctx, "default", "this process", now, 10, time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range leases {
		round := store.Round{Status: l.Agent.Status, State: l.Agent.State, Next: now.Add(2 * time.Second)}
		round.Status.AttestationCount++
		if err := db.Commit(ctx, l, round, now); err != nil {
			log.Fatal(err)
		}
	}
	agent, err = db.Agent(ctx, "agent-1")
	fmt.Println(agent.Status.AttestationCount, err)
	// Output: 1 <nil>
}
