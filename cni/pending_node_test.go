//go:build node

package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// brokenAddresses fails to release a given number of times.
type brokenAddresses struct {
	*fakeAddresses
	mu       sync.Mutex // guards failures
	failures int
}

func (b *brokenAddresses) Release(ctx context.Context, k Key) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures > 0 {
		b.failures--
		return errors.New("journal is full")
	}
	return b.fakeAddresses.Release(ctx, k)
}

func TestPendingIsCarriedOut(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	addresses := &brokenAddresses{fakeAddresses: newFakeAddresses(), failures: 1}
	s := newTestServer(t, Config{Addresses: addresses})
	for i := range 3 {
		if err := agentapi.WritePending(dir, pendingRequest(fmt.Sprintf("c%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, junk := range []string{"junk", ".new-1"} {
		if err := os.WriteFile(filepath.Join(dir, junk), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := NewPending(s, dir, 10*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-p.Ready()
	left := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	deadline := time.Now().Add(time.Minute)
	for len(left()) > 1 {
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", left())
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := left(); got[0] != ".new-1" || len(addresses.released) != 3 {
		t.Errorf("left %v, released %v", got, addresses.released)
	}
}
