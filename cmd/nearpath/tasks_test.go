package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// mainEnv makes of this program nearpath itself, for tests that run it on a node of their own.
const mainEnv = "NEARPATH_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// fakeTask becomes ready when told and ends with its error or its context.
type fakeTask struct {
	name  string
	ready chan struct{}
	fail  chan error
}

func newFakeTask(name string) *fakeTask {
	return &fakeTask{name: name, ready: make(chan struct{}), fail: make(chan error, 1)}
}

func (f *fakeTask) String() string         { return f.name }
func (f *fakeTask) Ready() <-chan struct{} { return f.ready }

func (f *fakeTask) Run(ctx context.Context) error {
	select {
	case err := <-f.fail:
		return err
	case <-ctx.Done():
		return nil
	}
}

func TestTasksEndTogether(t *testing.T) {
	t.Parallel()
	a, b := newFakeTask("a"), newFakeTask("b")
	broken := errors.New("broken")
	b.fail <- broken
	err := tasks{a, b}.run(t.Context(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "b: ") {
		t.Errorf("run returned %v, want the error of b with its name", err)
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	a, b := newFakeTask("a"), newFakeTask("b")
	close(a.ready)
	if got := (tasks{a, b}).waiting(); len(got) != 1 || got[0] != "b" {
		t.Errorf("waiting for %v, want b", got)
	}
}

func TestAfter(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	done := false
	a := &after{name: "second", first: first, do: func() error { done = true; return nil }, ready: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	close(first)
	<-a.Ready()
	cancel()
	if err := <-ended; err != nil || !done {
		t.Errorf("done is %v, error %v", done, err)
	}
}

func TestHealthEndpoints(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(buildInfo())
	waiting := []string{"node DNS"}
	h := &health{metrics: registry, waiting: func() []string { return waiting }}
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.mux().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "node DNS") {
		t.Errorf("/readyz answers %d %q while a task is not ready", code, body)
	}
	waiting = nil
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "nearpath_build_info"} {
		if code, body := get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s answers %d %q, want %q", path, code, body, want)
		}
	}
}

func TestLockNode(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/run/agent.lock"
	first, err := lockNode(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockNode(path); err == nil || !strings.Contains(err.Error(), "is the agent of this node") {
		t.Errorf("a second agent got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockNode(path)
	if err != nil {
		t.Fatalf("the lock outlived its holder: %v", err)
	}
	again.Close()
}
