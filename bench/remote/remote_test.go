package remote

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// servedEnv makes the copy of the test program serve.
const servedEnv = "NEARPATH_TEST_REMOTE"

func TestMain(m *testing.M) {
	if os.Getenv(servedEnv) == "" {
		os.Exit(m.Run())
	}
	err := Serve(os.Stdin, os.Stdout, Verbs{
		"double": Verb(func(n int) (any, error) { return 2 * n, nil }),
		"fail":   Verb(func(struct{}) (any, error) { return nil, errors.New("out of paper") }),
		"die":    func(json.RawMessage) (any, error) { os.Exit(3); return nil, nil },
		"hang":   func(json.RawMessage) (any, error) { select {} },
	})
	if err != nil {
		os.Exit(1)
	}
}

func connect(t *testing.T) *Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), servedEnv+"=1")
	p, err := Connect("printer", cmd, (*exec.Cmd).Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return p
}

func TestAsk(t *testing.T) {
	t.Parallel()
	p := connect(t)
	for n := range 3 {
		var got int
		if err := p.Ask(t.Context(), "double", n, &got); err != nil || got != 2*n {
			t.Errorf("double %d is %d, %v", n, got, err)
		}
	}
	for verb, says := range map[string]string{"fail": "printer: fail: out of paper", "sing": "no such verb", "double": "decode the argument"} {
		if err := p.Ask(t.Context(), verb, struct{}{}, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error %v does not say %q", verb, err, says)
		}
	}
	if err := p.Ask(t.Context(), "die", nil, nil); err == nil || !strings.Contains(err.Error(), "printer ended") {
		t.Errorf("error after its end: %v", err)
	}
}

func TestAskEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := connect(t)
	asked := make(chan error, 1)
	go func() { asked <- p.Ask(ctx, "hang", nil, nil) }()
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
