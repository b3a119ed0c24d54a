package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	defaultPoll = 5 * time.Second
	// settle is how long the directory must be quiet before it is read, so that a file is not read half written.
	settle = 20 * time.Millisecond
	// maxManifest bounds the memory one file can take.
	maxManifest = 64 << 20
)

// FileConfig configures a [FileSource].
type FileConfig struct {
	Dir   string
	Store *Store
	// NodeName says whose pods the Snapshot holds: those that name this node, and those that name none; and which Node.
	// Empty for no pods and no Node.
	NodeName string
	// Publish and Policy are as in [APIConfig].
	Publish []Kind
	Policy  bool
	Log     *slog.Logger
	// Poll is how often the directory is looked at without being told; 0 means 5 s.
	Poll time.Duration
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// A FileSource keeps a Store in step with a directory of manifests: the files *.yaml, *.yml and *.json in it, not those
// below it, of ordinary Kubernetes objects. Namespaces exist when an object says so or is in one. Of an object that cannot
// be converted the last good state stays. A directory without any manifest, that is missing, or with an error that leaves
// open which object is meant is refused whole; for publishing, one with any error.
//
// Replace files by renaming: a file that is written in place may be read half written when the writer pauses.
//
// It is a task: Run once, Ready is closed after the first good load.
type FileSource struct {
	config  FileConfig
	metrics manifestMetrics
	ready   chan struct{}
	once    sync.Once
	seen    []fileState // as of the last load, good or bad
	failure string      // of the last load, so that the same error is logged once
	refused atomic.Pointer[error]
}

// A fileState is what a poll compares.
type fileState struct {
	name    string
	size    int64
	changed time.Time
}

// NewFileSource returns a source that has not started.
func NewFileSource(c FileConfig) (*FileSource, error) {
	if c.Poll == 0 {
		c.Poll = defaultPoll
	}
	if len(c.Publish) > 0 && c.NodeName != "" {
		return nil, fmt.Errorf("node %s: pods of a node and publishing exclude each other", c.NodeName)
	}
	if c.Policy && c.NodeName == "" {
		return nil, errors.New("policies are enforced for pods of a node, and no node is given")
	}
	m := newManifestMetrics(c.Policy)
	if err := register(c.Registerer, m.refused, m.objects, m.stale, m.lastGood); err != nil {
		return nil, err
	}
	return &FileSource{config: c, metrics: m, ready: make(chan struct{})}, nil
}

// Ready is closed after the first good load.
func (s *FileSource) Ready() <-chan struct{} { return s.ready }

func (s *FileSource) String() string { return "manifest directory " + s.config.Dir }

// Run loads the directory and follows its changes until ctx ends; it returns nil then.
func (s *FileSource) Run(ctx context.Context) error {
	events, errs, watch, closeWatch := s.watcher()
	defer closeWatch()
	poll := time.NewTicker(s.config.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(settle)
	quiet.Stop()

	watch()
	s.load()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			quiet.Reset(settle)
		case <-quiet.C:
			s.load()
		case err := <-errs:
			s.config.Log.Warn("watch of the manifest directory failed", "err", err)
			quiet.Reset(settle)
		case <-poll.C:
			watch() // the directory may be another one now
			s.loadIfChanged()
		}
	}
}

// watcher falls back to polling alone, with channels that never deliver, when the kernel has no watch to give.
func (s *FileSource) watcher() (events <-chan fsnotify.Event, errs <-chan error, watch, closeWatch func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.config.Log.Warn("no file watch, polling only", "err", err, "interval", s.config.Poll)
		return nil, nil, func() {}, func() {}
	}
	watch = func() { _ = w.Add(s.config.Dir) } // a missing directory is reported by load
	return w.Events, w.Errors, watch, func() { _ = w.Close() }
}

func (s *FileSource) loadIfChanged() {
	states, err := manifestStates(s.config.Dir)
	if err != nil || !slices.Equal(states, s.seen) {
		s.load()
	}
}

// Refused says which Services and EndpointSlices, or that all objects, are refused as they stand in the directory; nil if none
// is.
func (s *FileSource) Refused() error {
	if err := s.refused.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *FileSource) load() {
	states, all, err := readUnchanged(s.config.Dir, func(states []fileState) (Objects, error) {
		set := newManifestSet(s.config.NodeName, s.config.Publish)
		set.policy = s.config.Policy
		return readManifests(s.config.Dir, set, states)
	})
	s.seen = states
	if err != nil {
		s.refused.Store(&err)
		s.refuse(err)
		return
	}
	var errs []error
	for _, r := range all.Refused {
		if r.Kind == kindService || r.Kind == kindSlice {
			errs = append(errs, r.Err)
		}
	}
	err = errors.Join(errs...)
	s.refused.Store(&err)
	s.config.Store.Replace(all)
	s.once.Do(func() { close(s.ready) })
	if len(all.Refused) > 0 {
		s.refuseSome(all.Refused)
		return
	}
	s.failure = ""
	s.metrics.stale.Set(0)
	s.metrics.lastGood.SetToCurrentTime()
}

// mostReads is how often a directory that changes while it is read is read; after that it is taken as it is.
const mostReads = 3

// readUnchanged reads a directory as it was at one moment. One that lists a file less and has another one mended since would
// otherwise look as if an object had gone that is there.
func readUnchanged(dir string, read func([]fileState) (Objects, error)) (states []fileState, all Objects, err error) {
	for range mostReads {
		if states, err = manifestStates(dir); err != nil {
			return states, all, err
		}
		all, err = read(states)
		if now, listErr := manifestStates(dir); listErr == nil && slices.Equal(now, states) {
			break
		}
	}
	return states, all, err
}

// refuseSome says what of a directory is not served as it stands there.
func (s *FileSource) refuseSome(refused []Refusal) {
	s.metrics.stale.Set(1)
	errs := make([]error, len(refused))
	for i, r := range refused {
		s.metrics.objects.WithLabelValues(r.Kind).Inc()
		errs[i] = r.Err
	}
	all := errors.Join(errs...).Error()
	if s.failure == all {
		return
	}
	s.failure = all
	for _, err := range errs {
		s.config.Log.Error("object refused, its last good state stays", "err", err)
	}
}

func (s *FileSource) refuse(err error) {
	s.metrics.refused.Inc()
	s.metrics.stale.Set(1)
	if s.failure == err.Error() {
		return
	}
	s.failure = err.Error()
	s.config.Log.Error("manifests refused, the last good state stays", "err", err)
}

// manifestStates lists the manifests of a directory, sorted by name.
func manifestStates(dir string) ([]fileState, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	var states []fileState
	for _, entry := range entries {
		if !isManifest(entry.Name()) {
			continue
		}
		stat, err := os.Stat(filepath.Join(dir, entry.Name())) // follows symbolic links
		if err != nil {
			return nil, fmt.Errorf("list manifests: %w", err)
		}
		if stat.Mode().IsRegular() {
			states = append(states, stateOf(stat))
		}
	}
	return states, nil
}

func stateOf(stat fs.FileInfo) fileState {
	return fileState{stat.Name(), stat.Size(), stat.ModTime()}
}

func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func readManifests(dir string, set *manifestSet, files []fileState) (Objects, error) {
	if len(files) == 0 {
		return Objects{}, fmt.Errorf("no manifest in %s", dir)
	}
	set.tolerant = set.publish == 0
	for _, file := range files {
		if file.size > maxManifest {
			return Objects{}, fmt.Errorf("%s: larger than %d bytes", file.name, maxManifest)
		}
		content, err := os.ReadFile(filepath.Join(dir, file.name))
		if err != nil {
			return Objects{}, fmt.Errorf("read manifest: %w", err)
		}
		if err := set.addFile(file.name, content); err != nil {
			return Objects{}, err
		}
	}
	return set.result(), nil
}
