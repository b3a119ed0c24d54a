package cni

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// pendingName matches what agentapi.PendingName makes.
var pendingName = regexp.MustCompile(`^[0-9a-f]{64}\.json$`)

// A Pending carries out the deletions that nearpath-cni recorded while the agent was down, a Task.
type Pending struct {
	server   *Server
	dir      string
	interval time.Duration
	log      *slog.Logger
	ready    chan struct{}
	retry    map[string]attempt
}

type attempt struct {
	failures int
	next     time.Time
}

// NewPending watches a directory, empty meaning that beside agentapi.DefaultSocket. It looks every interval, zero meaning every
// second: the directory is in memory and almost always empty or absent, and a look is cheaper than a watch to keep alive.
func NewPending(s *Server, dir string, interval time.Duration) *Pending {
	return &Pending{
		server: s, dir: cmp.Or(dir, agentapi.PendingDir("")), interval: cmp.Or(interval, time.Second),
		log: s.log, ready: make(chan struct{}), retry: map[string]attempt{},
	}
}

// Ready is closed when the deletions found at the start have been tried.
func (p *Pending) Ready() <-chan struct{} { return p.ready }

func (p *Pending) String() string { return "pending deletions in " + p.dir }

// Run looks until the context ends.
func (p *Pending) Run(ctx context.Context) error {
	ticker := time.NewTicker(p.interval)
	defer ticker.Stop()
	failed := false
	for first := true; ; first = false {
		err := p.scan(ctx, time.Now())
		if err != nil && !failed {
			p.log.Error("pending deletions cannot be read", "err", err)
		}
		failed = err != nil
		if first {
			close(p.ready)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *Pending) scan(ctx context.Context, now time.Time) error {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if name[0] == '.' || now.Before(p.retry[name].next) || ctx.Err() != nil {
			continue
		}
		if err := p.carryOut(ctx, name); err != nil {
			failures := p.retry[name].failures + 1
			p.retry[name] = attempt{failures, now.Add(min(time.Minute, time.Second<<min(failures, 6)))}
			p.log.Warn("pending deletion failed, trying again", "file", name, "err", err, "failures", failures)
			continue
		}
		delete(p.retry, name)
	}
	return nil
}

// carryOut removes the file when the deletion is done, or when the file can never be one.
func (p *Pending) carryOut(ctx context.Context, name string) error {
	path := filepath.Join(p.dir, name)
	request, err := readPending(path)
	if err != nil && !errors.Is(err, errNotPending) {
		return err
	}
	if err != nil {
		p.log.Warn("file is no pending deletion, removing it", "file", name, "err", err)
		return os.RemoveAll(path)
	}
	if response := p.server.Handle(ctx, request); response.Error != nil {
		return response.Error
	}
	return os.Remove(path)
}

// errNotPending marks a file that will never be a deletion, as against one that cannot be read now.
var errNotPending = errors.New("not a pending deletion")

// readPending takes nothing on trust: the name must be the one that follows from the content.
func readPending(path string) (agentapi.CNIRequest, error) {
	if !pendingName.MatchString(filepath.Base(path)) {
		return agentapi.CNIRequest{}, fmt.Errorf("%w: its name is not a SHA-256 sum and .json", errNotPending)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return agentapi.CNIRequest{}, fmt.Errorf("%w: it is a symbolic link", errNotPending)
	}
	if err != nil {
		return agentapi.CNIRequest{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return agentapi.CNIRequest{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > agentapi.MaxPendingBytes {
		return agentapi.CNIRequest{}, fmt.Errorf("%w: it is no regular file of at most %d bytes", errNotPending, agentapi.MaxPendingBytes)
	}
	body, err := io.ReadAll(io.LimitReader(file, agentapi.MaxPendingBytes))
	if err != nil {
		return agentapi.CNIRequest{}, err
	}
	request, err := parsePending(body, filepath.Base(path))
	if err != nil {
		return agentapi.CNIRequest{}, fmt.Errorf("%w: %w", errNotPending, err)
	}
	return request, nil
}

func parsePending(body []byte, name string) (agentapi.CNIRequest, error) {
	var request agentapi.CNIRequest
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&request); err != nil {
		return agentapi.CNIRequest{}, err
	}
	conf, err := parseForTeardown(request.Config)
	if err != nil {
		return agentapi.CNIRequest{}, err
	}
	if request.Command != "DEL" || agentapi.PendingName(conf.Name, request) != name {
		return agentapi.CNIRequest{}, errors.New("its name does not follow from its content")
	}
	request.Args = "" // DEL does not need them
	_, err = attachmentOf(request, conf.Name)
	return request, err
}
