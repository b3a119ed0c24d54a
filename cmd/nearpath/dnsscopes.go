package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/cluster"
)

// sandboxFiles are where container runtimes keep the resolv.conf that they give to the containers of a pod, with the id of
// its sandbox for %s: containerd, that of K3s, CRI-O. They write it after the ADD.
func sandboxFiles() []string {
	return []string{
		"/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/%s/resolv.conf",
		"/var/lib/rancher/k3s/agent/containerd/io.containerd.grpc.v1.cri/sandboxes/%s/resolv.conf",
		"/run/containers/storage/overlay-containers/%s/userdata/resolv.conf",
	}
}

const (
	// maxResolvConf bounds what is read of a file that the pod's containers may write to.
	maxResolvConf = 64 << 10
	// lookAgain is how long a pod whose search is not known is left alone by looking for it, while it asks.
	lookAgain = time.Second
)

// dnsScopes knows how the pods of this node search, by their addresses, from their ADD to their DEL: what the runtime told
// at the ADD, or else what it wrote into the pod's resolv.conf, or else what kubelet writes there for a pod like it. Of a
// pod of which nothing of this is known it says so.
//
// Each Scope that pods have has a number for the kernel, which is never given again: what is still kept under the number of a
// Scope that has ended is nobody's. It is a Task, which tells of those; the rest is safe for concurrent use.
type dnsScopes struct {
	config dnsScopesConfig
	ready  chan struct{}
	wake   chan struct{}

	mu     sync.RWMutex // guards what follows, but for what is fixed of searching pods
	byAddr map[netip.Addr]*searching
	lives  map[autopath.Scope]*scopeLife
	byID   map[uint32]autopath.Scope
	last   uint32 // the number that was given last
	over   []uint32
}

type dnsScopesConfig struct {
	Domain string                        // the cluster's
	Host   func() []string               // what the node's own resolv.conf searches
	Pod    func(cni.PodRef) *cluster.Pod // nil if it is not known
	Files  []string                      // as sandboxFiles
	// Kernel writes the number of pods that are in its map.
	Kernel func(addrs []netip.Addr, id uint32) error
	// Ended is called for each number that has become nobody's.
	Ended func(id uint32)
	Log   *slog.Logger
	Last  uint32 // numbers begin after this one
}

// A searching pod is one attachment.
type searching struct {
	container string
	addrs     []netip.Addr
	ref       cni.PodRef

	known bool // whether scope is what the pod has, be it nothing
	scope autopath.Scope
	// mapped says that the kernel has the pod, with the number that it was given.
	mapped bool
	next   time.Time // when to look again
}

// A scopeLife is a Scope that pods have.
type scopeLife struct {
	id   uint32
	pods int
}

func newDNSScopes(c dnsScopesConfig) *dnsScopes {
	return &dnsScopes{
		config: c, last: c.Last, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		byAddr: map[netip.Addr]*searching{}, lives: map[autopath.Scope]*scopeLife{}, byID: map[uint32]autopath.Scope{},
	}
}

func (s *dnsScopes) String() string         { return "search of pods" }
func (s *dnsScopes) Ready() <-chan struct{} { return s.ready }

// Run tells of numbers that have become nobody's.
func (s *dnsScopes) Run(ctx context.Context) error {
	close(s.ready)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		s.mu.Lock()
		over := s.over
		s.over = nil
		s.mu.Unlock()
		for _, id := range over {
			s.config.Ended(id)
		}
	}
}

// Bind makes the pod known before anything can come from it, and returns its number for the kernel. Whoever had one of
// its addresses is forgotten.
func (s *dnsScopes) Bind(e cni.PodEntry) uint32 {
	b := &searching{container: e.ContainerID, addrs: e.Addrs, ref: e.Pod}
	if e.Scope.Servers != nil || e.Scope.Search != nil || e.Scope.Options != nil {
		b.scope, b.known = s.told(e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range e.Addrs {
		if old := s.byAddr[a]; old != nil && old.container == b.container && !b.known {
			b.scope, b.known = old.scope, old.known
		}
	}
	id := s.acquire(b.scope)
	for _, a := range e.Addrs {
		if old := s.byAddr[a]; old != nil {
			s.drop(old)
		}
		s.byAddr[a] = b
	}
	return id
}

// Mapped says that the kernel has the pod as Bind said.
func (s *dnsScopes) Mapped(e cni.PodEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range e.Addrs {
		if b := s.byAddr[a]; b != nil && b.container == e.ContainerID {
			b.mapped = true
		}
	}
}

// Unbind forgets the pod before its addresses can be another's.
func (s *dnsScopes) Unbind(e cni.PodEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range e.Addrs {
		if b := s.byAddr[a]; b != nil && (b.container == e.ContainerID || e.ContainerID == "") {
			s.drop(b)
		}
	}
}

// Has says whether the pod is known as Bind and Mapped left it.
func (s *dnsScopes) Has(e cni.PodEntry) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool {
		b := s.byAddr[a]
		return b == nil || b.container != e.ContainerID || !b.mapped
	})
}

// drop takes a pod out. The caller holds mu.
func (s *dnsScopes) drop(b *searching) {
	for _, a := range b.addrs {
		if s.byAddr[a] == b {
			delete(s.byAddr, a)
		}
	}
	life := s.lives[b.scope]
	if life == nil {
		return
	}
	if life.pods--; life.pods > 0 {
		return
	}
	delete(s.lives, b.scope)
	delete(s.byID, life.id)
	s.over = append(s.over, life.id)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// acquire counts one more pod with the Scope and returns its number; that of no search, and of one too many for the
// numbers there are, is 0. The caller holds mu.
func (s *dnsScopes) acquire(scope autopath.Scope) uint32 {
	if scope == (autopath.Scope{}) {
		return 0
	}
	life := s.lives[scope]
	if life == nil {
		if s.last == math.MaxUint32 {
			return 0
		}
		s.last++
		life = &scopeLife{id: s.last}
		s.lives[scope], s.byID[s.last] = life, scope
	}
	life.pods++
	return life.id
}

// Scope implements autopath.Scopes.
func (s *dnsScopes) Scope(_ context.Context, client netip.Addr) (autopath.Scope, bool) {
	s.mu.RLock()
	b := s.byAddr[client]
	var scope autopath.Scope
	known, due := false, false
	if b != nil {
		scope, known = b.scope, b.known
		due = !known && b.mapped && !time.Now().Before(b.next)
	}
	s.mu.RUnlock()
	if due {
		scope = s.look(b)
	}
	return scope, scope != autopath.Scope{}
}

// look finds out how a pod searches that the runtime did not tell of, unless somebody else does so, and returns nothing
// until it is found.
func (s *dnsScopes) look(b *searching) autopath.Scope {
	now := time.Now()
	s.mu.Lock()
	due := !b.known && !now.Before(b.next)
	if due {
		b.next = now.Add(lookAgain)
	}
	s.mu.Unlock()
	if !due {
		return autopath.Scope{}
	}
	scope, found := s.find(b)
	if !found {
		return autopath.Scope{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.known || len(b.addrs) == 0 || s.byAddr[b.addrs[0]] != b { // its DEL has come
		return autopath.Scope{}
	}
	b.scope, b.known = scope, true
	// While we hold the lock the addresses are the pod's. A kernel that does not know lets it search by itself.
	if err := s.config.Kernel(b.addrs, s.acquire(scope)); err != nil {
		s.config.Log.Warn("the kernel cannot be told how a pod searches", "pod", b.ref.Namespace+"/"+b.ref.Name, "err", err)
	}
	return scope
}

// told is what the runtime says at the ADD.
func (s *dnsScopes) told(e cni.PodEntry) (autopath.Scope, bool) {
	lines := "search " + strings.Join(e.Scope.Search, " ") + "\noptions " + strings.Join(e.Scope.Options, " ") + "\n"
	return s.of(autopath.ParseResolvConf(lines), e.Pod)
}

func (s *dnsScopes) of(conf autopath.ResolvConf, ref cni.PodRef) (autopath.Scope, bool) {
	scope, err := autopath.NewScope(conf.Search, conf.Ndots, s.config.Domain)
	if err != nil {
		s.config.Log.Warn("a pod is not searched for", "pod", ref.Namespace+"/"+ref.Name, "err", err)
		return autopath.Scope{}, false
	}
	return scope, true
}

// find reads the pod's resolv.conf, or makes out what kubelet writes there.
func (s *dnsScopes) find(b *searching) (autopath.Scope, bool) {
	if b.container == "" {
		return autopath.Scope{}, false
	}
	for _, file := range s.config.Files {
		text, err := readResolvConf(fmt.Sprintf(file, b.container))
		switch {
		case err == nil:
			return s.of(autopath.ParseResolvConf(text), b.ref)
		case !errors.Is(err, os.ErrNotExist):
			s.config.Log.Warn("the resolv.conf of a pod cannot be read", "pod", b.ref.Namespace+"/"+b.ref.Name, "err", err)
			return autopath.Scope{}, false
		}
	}
	return s.usual(b.ref)
}

func readResolvConf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxResolvConf+1))
	if err == nil && len(text) > maxResolvConf {
		err = fmt.Errorf("%s has more than %d bytes", path, maxResolvConf)
	}
	return string(text), err
}

// usual is what kubelet writes for the pod by its object, without which there is no telling its dnsPolicy.
func (s *dnsScopes) usual(ref cni.PodRef) (autopath.Scope, bool) {
	pod := s.config.Pod(ref)
	if pod == nil || pod.HostNetwork {
		return autopath.Scope{}, false
	}
	own := autopath.Own{Ndots: -1}
	if d := pod.DNS; d != nil {
		if d.Policy == string(corev1.DNSDefault) {
			return autopath.Scope{}, false // the node's, by a file that only kubelet knows
		}
		own.None, own.Search = d.Policy == string(corev1.DNSNone), d.Search
		if d.Ndots != nil {
			own.Ndots = autopath.ParseNdots(*d.Ndots)
		}
	}
	c := autopath.Cluster{Domain: s.config.Domain, Host: s.config.Host(), Ndots: autopath.ClusterNdots}
	scope, err := c.Scope(pod.Name.Namespace, own)
	if err != nil {
		s.config.Log.Warn("a pod is not searched for", "pod", pod.Name, "err", err)
		return autopath.Scope{}, false
	}
	return scope, true
}

// ScopeID is the number of a Scope, 0 when no pod has it.
func (s *dnsScopes) ScopeID(scope autopath.Scope) uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if life := s.lives[scope]; life != nil {
		return life.id
	}
	return 0
}

// ScopeOf is the Scope that has a number, false when none has it any more.
func (s *dnsScopes) ScopeOf(id uint32) (autopath.Scope, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	scope, ok := s.byID[id]
	return scope, ok
}

// Searched reports whether a pod may begin a search with this question. The answer to the question alone is then not for
// that pod, unless it has an address.
func (s *dnsScopes) Searched(name string, qtype uint16) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for scope := range s.lives {
		if scope.Searches(name, qtype) {
			return true
		}
	}
	return false
}

// passing returns whether the search of a question passes one of the names, or one below: whether it may end elsewhere
// when they come into being or go. Names are folded and have their final dot.
func (s *dnsScopes) passing(names []string) func(id uint32, question string) bool {
	changed := make(map[string]bool, len(names))
	for _, name := range names {
		changed[name] = true
	}
	return func(id uint32, question string) bool {
		scope, ok := s.ScopeOf(id)
		if !ok {
			return true
		}
		return slices.ContainsFunc(scope.Passes(question), func(name string) bool {
			for {
				if changed[name] {
					return true
				}
				_, parent, more := strings.Cut(name, ".")
				if !more || parent == "" {
					return false
				}
				name = parent
			}
		})
	}
}
