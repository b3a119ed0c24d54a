package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// An apiServer is as much of one as the clients need, and remembers what they asked for.
type apiServer struct {
	*httptest.Server
	mu   sync.Mutex
	used map[string]string // by what RBAC calls it, how it was asked for last
	more chan struct{}
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{used: make(map[string]string), more: make(chan struct{}, 1)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	query := r.URL.Query()
	verb := map[string]string{http.MethodGet: "list", http.MethodPost: "create", http.MethodPatch: "patch"}[r.Method]
	if query.Get("watch") != "" {
		verb = "watch"
	}
	if strings.HasSuffix(r.URL.Path, "/networking.k8s.io/v1") { // discovery, as every client may
		answer(w, http.StatusOK, installed("networking.k8s.io/v1", "servicecidrs"))
		return
	}
	s.note(verb+" "+resourceOf(r.URL.Path), fmt.Sprintln(r.Header.Get("Content-Type"), query.Get("fieldSelector"), string(body)))
	w.Header().Set("Content-Type", "application/json")
	switch {
	case query.Get("sendInitialEvents") != "":
		answer(w, http.StatusUnprocessableEntity, metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
	case verb == "watch":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case verb == "list" && strings.HasSuffix(r.URL.Path, "/nodes"):
		answer(w, http.StatusOK, &corev1.NodeList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}, Items: []corev1.Node{*apiNode()}})
	case verb == "list":
		answer(w, http.StatusOK, map[string]any{"metadata": map[string]string{"resourceVersion": "1"}, "items": []any{}})
	case verb == "create":
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_, _ = w.Write(body)
	case strings.Contains(r.URL.Path, "/events/"):
		answer(w, http.StatusOK, &corev1.Event{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}})
	default:
		node := apiNode()
		node.APIVersion, node.Kind = "v1", "Node"
		answer(w, http.StatusOK, node)
	}
}

func answer(w http.ResponseWriter, code int, body any) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// resourceOf leaves names and namespaces out of a path.
func resourceOf(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	group := ""
	if parts[0] == "apis" {
		group, parts = parts[1]+"/", parts[1:]
	}
	if parts = parts[2:]; parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	if len(parts) == 3 {
		return group + parts[0] + "/" + parts[2]
	}
	return group + parts[0]
}

func (s *apiServer) note(what, how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[what] = how
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// wait returns what has been used once it is at least want.
func (s *apiServer) wait(t *testing.T, want []string) map[string]string {
	t.Helper()
	timeout := time.After(deadline)
	for {
		s.mu.Lock()
		used := maps.Clone(s.used)
		s.mu.Unlock()
		if !slices.ContainsFunc(want, func(what string) bool { _, ok := used[what]; return !ok }) {
			return used
		}
		select {
		case <-s.more:
		case <-timeout:
			t.Fatalf("used only %v", slices.Sorted(maps.Keys(used)))
		}
	}
}

// The role of an agent must allow exactly what the package's comment says, so this is what the package uses.
func TestWhatTheAPIIsAskedFor(t *testing.T) {
	t.Parallel()
	server := newAPIServer(t)
	config, log := &rest.Config{Host: server.URL}, slog.New(slog.DiscardHandler)
	source, err := NewAPISource(APIConfig{REST: config, Store: NewStore(), NodeName: testNode, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	reporter, err := NewNodeReporter(NodeReporterConfig{REST: config, NodeName: testNode, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	events, err := NewEvents(EventsConfig{REST: config, NodeName: testNode, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	reporter.Set(NodeReport{Resources: map[string]int64{"nearpath.io/ip": 30}})
	for range 2 {
		events.Warn(Object{}, "VSwitchFull", "vsw-a has no address left")
	}
	defer run(t, source)()
	defer run(t, reporter)()
	defer run(t, events)()

	want := []string{
		"create events", "list discovery.k8s.io/endpointslices", "list namespaces", "list networking.k8s.io/servicecidrs", "list nodes", "list pods", "list services",
		"patch events", "patch nodes/status", "watch discovery.k8s.io/endpointslices", "watch namespaces", "watch networking.k8s.io/servicecidrs", "watch nodes", "watch pods",
		"watch services",
	}
	used := server.wait(t, want)
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) {
		t.Errorf("used %q, want %q", got, want)
	}
	for what, how := range map[string]string{
		"list nodes":         " metadata.name=" + testNode,
		"watch nodes":        " metadata.name=" + testNode,
		"list pods":          " spec.nodeName=" + testNode,
		"watch pods":         " spec.nodeName=" + testNode,
		"patch nodes/status": `application/strategic-merge-patch+json  {"status":{"capacity":{"nearpath.io/ip":"30"}}}`,
	} {
		if !strings.Contains(used[what], how) {
			t.Errorf("%s: asked as %q, want %q", what, used[what], how)
		}
	}
}
