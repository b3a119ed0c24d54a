package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = time.Minute

// waitFor follows the Store until the Snapshot is as wanted.
func waitFor(t *testing.T, store *Store, what string, want func(*Snapshot) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	sub := store.Subscribe()
	defer sub.Close()
	for {
		c, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("never saw %s: %v", what, err)
		}
		if want(c.Snapshot) {
			return
		}
	}
}

// A logLines is a log that tests read while others write.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newLogLines() *logLines { return &logLines{more: make(chan struct{}, 1)} }

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *logLines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func (l *logLines) wait(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(deadline)
	for l.count(text) == 0 {
		select {
		case <-l.more:
		case <-timeout:
			t.Fatalf("%q was not logged, but:\n%s", text, l.text.String())
		}
	}
}

// metricValue reads a counter or a gauge.
func metricValue(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

type fileFixture struct {
	dir      string
	store    *Store
	source   *FileSource
	log      *logLines
	registry *prometheus.Registry
}

// startFiles runs a FileSource on a directory until the test ends.
func startFiles(t *testing.T, poll time.Duration, dir string) *fileFixture {
	t.Helper()
	f := &fileFixture{dir: dir, store: NewStore(), log: newLogLines(), registry: prometheus.NewRegistry()}
	var err error
	f.source, err = NewFileSource(FileConfig{
		Dir: dir, Store: f.store, Poll: poll, Registerer: f.registry, Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- f.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return f
}

// write replaces a file the way writers should.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	hidden := filepath.Join(dir, "."+name)
	if err := os.WriteFile(hidden, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(hidden, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func serviceManifest(name string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: ns}\nspec: {clusterIP: None}\n"
}

func has(names ...string) func(*Snapshot) bool {
	return func(s *Snapshot) bool {
		for _, name := range names {
			if s.Service(Name{"ns", name}) == nil {
				return false
			}
		}
		return s.Synced() && s.services.len() == len(names)
	}
}

func TestFileSourceFollowsTheDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", serviceManifest("a"))
	write(t, dir, "notes.txt", "not a manifest: [")
	f := startFiles(t, time.Hour, dir)
	<-f.source.Ready()
	waitFor(t, f.store, "the first file", has("a"))

	write(t, dir, "b.json", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"b","namespace":"ns"}}`)
	waitFor(t, f.store, "a new file", has("a", "b"))
	write(t, dir, "a.yaml", serviceManifest("c"))
	waitFor(t, f.store, "a file replaced", has("b", "c"))
	if err := os.Remove(filepath.Join(dir, "b.json")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, f.store, "a file removed", has("c"))
	if families, err := f.registry.Gather(); err != nil || len(families) != 4 {
		t.Errorf("gathered %v, %v; want 4 metrics", families, err)
	}
}

func TestFileSourceKeepsTheLastGoodState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", serviceManifest("a"))
	f := startFiles(t, time.Hour, dir)
	<-f.source.Ready()

	for _, step := range []struct{ name, content, want string }{
		{"b.yaml", serviceManifest("b") + "spec: {}\n", "b.yaml: document 1"},
		{"b.yaml", serviceManifest("b") + "---\n" + serviceManifest("a"), "b.yaml: document 2: Service ns/a: metadata.name: defined already in a.yaml: document 1"},
	} {
		write(t, dir, step.name, step.content)
		f.log.wait(t, step.want)
		if !has("a")(f.store.Snapshot()) {
			t.Fatalf("after %q the last good state is gone", step.want)
		}
		if got := metricValue(t, f.source.metrics.stale); got != 1 {
			t.Errorf("stale is %v", got)
		}
	}
	write(t, dir, "b.yaml", serviceManifest("b"))
	waitFor(t, f.store, "the file put right", has("a", "b"))
	if got := metricValue(t, f.source.metrics.refused); got < 2 {
		t.Errorf("%v loads refused, want at least 2", got)
	}
}

func TestFileSourceRefusesAnEmptyDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := startFiles(t, time.Hour, dir)
	f.log.wait(t, "no manifest in")
	select {
	case <-f.source.Ready():
		t.Fatal("ready without a manifest")
	default:
	}
	write(t, dir, "a.yaml", serviceManifest("a"))
	<-f.source.Ready()
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f.log.wait(t, "no manifest in "+dir)
	if !has("a")(f.store.Snapshot()) {
		t.Error("an emptied directory emptied the Snapshot")
	}
}

// A directory that comes later cannot be watched from the start; the poll finds it and logs its absence once.
func TestFileSourcePolls(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	f := startFiles(t, 10*time.Millisecond, dir)
	refused := time.NewTicker(time.Millisecond)
	defer refused.Stop()
	for timeout := time.After(deadline); metricValue(t, f.source.metrics.refused) < 3; {
		select {
		case <-refused.C:
		case <-timeout:
			t.Fatal("the directory was not polled")
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.yaml", serviceManifest("a"))
	waitFor(t, f.store, "the directory made later", has("a"))
	if n := f.log.count("list manifests"); n != 1 {
		t.Errorf("one lasting error was logged %d times", n)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "b.yaml", serviceManifest("b"))
	waitFor(t, f.store, "the directory made again", has("b"))
}

// A file that comes while the directory is read counts, and a directory that never rests is read all the same.
func TestReadUnchanged(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string]int{"never": 0, "once": 1, "always": 1 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, reads := t.TempDir(), 0
			states, _, err := readUnchanged(dir, func([]fileState) (Objects, error) {
				if reads++; reads <= changes {
					write(t, dir, fmt.Sprintf("%d.yaml", reads), "")
				}
				return Objects{}, nil
			})
			want := min(changes+1, mostReads)
			if err != nil || reads != want || len(states) != want-1 {
				t.Errorf("read %d times, the last time %d files, %v; want %d times and %d files", reads, len(states), err, want, want-1)
			}
		})
	}
}
