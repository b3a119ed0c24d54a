package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun"
)

// fixedMetadata answers with itself, or with nothing.
type fixedMetadata struct {
	id  string
	err error
}

func (m fixedMetadata) Instance(context.Context) (aliyun.Instance, error) {
	return aliyun.Instance{ID: m.id}, m.err
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "instance.json")
	log := slog.New(slog.DiscardHandler)
	away := errors.New("no answer")
	if _, err := identify(t.Context(), fixedMetadata{err: away}, path, log); !errors.Is(err, away) {
		t.Errorf("an instance nobody knows is identified with %v", err)
	}
	for _, m := range []fixedMetadata{{id: "i-1"}, {err: away}} {
		if got, err := identify(t.Context(), m, path, log); err != nil || got.ID != "i-1" {
			t.Errorf("identified as %q, %v, want i-1", got.ID, err)
		}
	}
	// A disk image that was copied to another instance brings the file along.
	if got, err := identify(t.Context(), fixedMetadata{id: "i-2"}, path, log); err != nil || got.ID != "i-2" {
		t.Errorf("identified as %q, %v, want i-2", got.ID, err)
	}
}

// TestADDWaitsForTheAgent: an ADD that comes before the datapath is up ends with the code that means "again later".
func TestADDWaitsForTheAgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		datapath := newFakeTask("socket programs")
		a := &agent{forADD: tasks{datapath}}
		got := a.serveCNI(t.Context(), agentapi.CNIRequest{Command: "ADD"})
		if got.Error == nil || got.Error.Code != tryAgainLater {
			t.Errorf("ADD on an agent that is not ready: %+v", got.Error)
		}
		close(datapath.ready)
		if err := a.awaitADD(t.Context()); err != nil {
			t.Errorf("ADD on an agent that is ready: %v", err)
		}
		if err := a.cniStatus(); err != nil {
			t.Errorf("STATUS of an agent that is ready: %v", err)
		}
	})
}

// TestSteeringEndsFirst: queries stop coming before the listener stops answering.
func TestSteeringEndsFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newFakeTask("node DNS")
		close(server.ready)
		var order []string
		dns := &steeredDNS{
			server: recorded{server, &order}, ready: make(chan struct{}),
			hold: func(ctx context.Context, held func()) error {
				held()
				<-ctx.Done()
				order = append(order, "steering")
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- dns.Run(ctx) }()
		<-dns.Ready()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(order) != 2 || order[0] != "steering" {
			t.Errorf("ended in the order %v, want steering first", order)
		}
	})
}

// recorded notes when its task ends.
type recorded struct {
	task
	order *[]string
}

func (r recorded) Run(ctx context.Context) error {
	err := r.task.Run(ctx)
	*r.order = append(*r.order, "listener")
	return err
}

// TestSteeringEndsWithTheListener: a listener that fails takes the steering, and then the agent, along.
func TestSteeringEndsWithTheListener(t *testing.T) {
	t.Parallel()
	server := newFakeTask("node DNS")
	close(server.ready)
	broken := errors.New("broken")
	dns := &steeredDNS{server: server, ready: make(chan struct{}), hold: func(ctx context.Context, held func()) error {
		held()
		server.fail <- broken
		<-ctx.Done()
		return nil
	}}
	if err := dns.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("ended with %v, want the listener's error", err)
	}
}
