package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func socketPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "run", "agent.sock")
}

func echo(_ context.Context, r CNIRequest) CNIResponse {
	if r.Command == "FAIL" {
		return CNIResponse{Error: &CNIError{Code: 11, Msg: "later", Details: "none free"}}
	}
	result, err := json.Marshal(r)
	if err != nil {
		return CNIResponse{Error: &CNIError{Code: 999, Msg: err.Error()}}
	}
	return CNIResponse{Result: result}
}

// serve runs a server until the test ends or stop is called.
func serve(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("server ended: %v", err)
	}
	stopped := false
	stop = func() error {
		cancel()
		if stopped {
			return nil
		}
		stopped = true
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func newServer(socket string) *Server {
	return NewServer(ServerConfig{Socket: socket, CNI: echo, Log: slog.New(slog.DiscardHandler)})
}

func TestRoundTrip(t *testing.T) {
	defer goleak.VerifyNone(t)
	socket := socketPath(t)
	s := newServer(socket)
	s.Handle("/v1/pool", func(context.Context) (any, error) { return map[string]int{"idle": 3}, nil })
	s.Handle("/v1/broken", func(context.Context) (any, error) { return nil, errors.New("no pool here") })
	Serve(s, "/v1/hold", func(_ context.Context, zone map[string]string) (any, error) {
		if zone["id"] == "" {
			return nil, errors.New("no such zone")
		}
		return zone, nil
	})
	stop := serve(t, s)
	c := NewClient(socket)
	var held map[string]string
	if err := c.Post(t.Context(), "/v1/hold", map[string]string{"id": "z1"}, &held); err != nil || held["id"] != "z1" {
		t.Errorf("held %v, %v", held, err)
	}
	if err := c.Post(t.Context(), "/v1/hold", nil, &held); err == nil || !strings.Contains(err.Error(), "no such zone") {
		t.Errorf("an error came as %v", err)
	}

	answer, err := c.CNI(t.Context(), CNIRequest{Command: "ADD", ContainerID: "c1", Config: []byte(`{"name":"net"}`)})
	if err != nil || answer.Error != nil || !strings.Contains(string(answer.Result), `"containerID":"c1"`) {
		t.Errorf("%+v, %v", answer, err)
	}
	answer, err = c.CNI(t.Context(), CNIRequest{Command: "FAIL", Config: []byte(`{}`)})
	if err != nil || answer.Error == nil || answer.Error.Code != 11 || answer.Error.Error() != "later: none free" {
		t.Errorf("%+v, %v", answer, err)
	}
	var pool map[string]int
	if err := c.Get(t.Context(), "/v1/pool", &pool); err != nil || pool["idle"] != 3 {
		t.Errorf("%v, %v", pool, err)
	}
	if err := c.Get(t.Context(), "/v1/broken", nil); err == nil || !strings.Contains(err.Error(), "no pool here") {
		t.Error(err)
	}
	if err := c.Get(t.Context(), "/v1/nothing", nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestAbsentAgent(t *testing.T) {
	socket := socketPath(t)
	c := NewClient(socket)
	if _, err := c.CNI(t.Context(), CNIRequest{Command: "DEL", Config: []byte(`{}`)}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("no file: %v", err)
	}
	leaveStale(t, socket)
	if _, err := c.CNI(t.Context(), CNIRequest{Command: "DEL", Config: []byte(`{}`)}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("stale file: %v", err)
	}
}

// leaveStale makes a socket file that nobody listens on, as a killed process leaves it.
func leaveStale(t *testing.T, socket string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	socket := socketPath(t)
	leaveStale(t, socket)
	serve(t, newServer(socket))
	if _, err := NewClient(socket).CNI(t.Context(), CNIRequest{Command: "ADD", Config: []byte(`{}`)}); err != nil {
		t.Error(err)
	}
	if err := newServer(socket).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("second server: %v", err)
	}
	if _, err := NewClient(socket).CNI(t.Context(), CNIRequest{Command: "ADD", Config: []byte(`{}`)}); err != nil {
		t.Errorf("after the second server: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	socket := socketPath(t)
	serve(t, newServer(socket))
	client := NewClient(socket).http
	for name, c := range map[string]struct {
		body string
		want string
	}{
		"unknown field": {`{"command":"ADD","config":{},"x":1}`, `unknown field "x"`},
		"two values":    {`{"command":"ADD","config":{}}{}`, "more than one JSON value"},
		"no JSON":       {`nonsense`, "invalid character"},
		"too large":     {`{"command":"` + strings.Repeat("x", maxBody) + `"}`, "request body too large"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent"+cniPath, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var text strings.Builder
		if err := response.Write(&text); err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(text.String(), c.want) {
			t.Errorf("%s: %s, want %q", name, text.String(), c.want)
		}
	}
}

// A request in flight is finished when the server is told to stop.
func TestShutdownFinishesRequests(t *testing.T) {
	socket := socketPath(t)
	entered := make(chan struct{})
	s := NewServer(ServerConfig{Socket: socket, Log: slog.New(slog.DiscardHandler), CNI: func(ctx context.Context, _ CNIRequest) CNIResponse {
		close(entered)
		select {
		case <-time.After(200 * time.Millisecond):
			return CNIResponse{Result: []byte(`"done"`)}
		case <-ctx.Done():
			return CNIResponse{Error: &CNIError{Msg: "cut off"}}
		}
	}})
	stop := serve(t, s)
	got := make(chan CNIResponse, 1)
	go func() {
		answer, err := NewClient(socket).CNI(context.Background(), CNIRequest{Command: "ADD", Config: []byte(`{}`)})
		if err != nil {
			answer.Error = &CNIError{Msg: err.Error()}
		}
		got <- answer
	}()
	<-entered
	if err := stop(); err != nil {
		t.Error(err)
	}
	if answer := <-got; string(answer.Result) != `"done"` {
		t.Errorf("%+v", answer)
	}
}

func TestWritePending(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "pending-del")
	r := CNIRequest{Command: "DEL", ContainerID: "c1", IfName: "eth0", Config: []byte(`{"name":"net"}`)}
	for range 2 {
		if err := WritePending(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != PendingName("net", r) {
		t.Fatalf("%v, %v", entries, err)
	}
	var back CNIRequest
	raw, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	if err != nil || json.Unmarshal(raw, &back) != nil || back.ContainerID != "c1" {
		t.Errorf("%s, %v", raw, err)
	}
	if err := WritePending(dir, CNIRequest{Config: []byte(`[`)}); err == nil {
		t.Error("a configuration that is no JSON was recorded")
	}
	if PendingDir("") != "/run/nearpath/pending-del" || PendingDir("/x/a.sock") != "/x/pending-del" {
		t.Error(PendingDir(""), PendingDir("/x/a.sock"))
	}
}
