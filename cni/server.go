package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/nearpath/nearpath/internal/agentapi"
)

// Error codes (CNI specification 1.1.0, section 5). Codes from 100 on are the plugin's own.
const (
	codeNotAvailable = 50 // STATUS: no ADD can be served
	codeLimited      = 51 // STATUS: nor can pods that are there be relied on
	codeBroken       = 100
)

// ErrLimited marks an error of Config.Status that is not only about new pods: those that are there may lack connectivity.
var ErrLimited = errors.New("connectivity of pods is limited")

// undoTimeout bounds the undoing of an ADD that failed, whose own context may have ended.
const undoTimeout = 10 * time.Second

// Config configures a Server. All fields but the optional ones must be set.
type Config struct {
	Addresses Addresses
	Pods      Pods
	// Wish says what is asked of a pod; annotations are those that the runtime passed, nil if it passed none. An error
	// refuses the ADD, with code 11 (try again later) unless it is an agentapi.CNIError. Optional: nothing is asked.
	Wish func(ctx context.Context, a Attachment, annotations map[string]string) (Wish, error)
	// ENIs is needed for the datapaths other than Veth, which are refused without it.
	ENIs ENIs
	// Shaper is needed for pods with limits, which are refused without it.
	Shaper Shaper
	// Records is the directory that says what ADD decided, on a file system that a reboot empties; it is made if absent.
	// It is needed for datapaths other than Veth, limits and host ports.
	Records string
	// HostNetworks are what pods with an ENI of their own reach through the node. Optional.
	HostNetworks func() []netip.Prefix
	// Report tells the node's users what was put right. Optional: it is only logged.
	Report func(reason, message string)
	// Status says why no pod can be added now; nil means that it can. An error that matches ErrLimited becomes code 51, others
	// 50. A runtime makes the node NotReady for either. Optional.
	Status func() error
	// MTU is for pods whose configuration has none; 0 means 1500. Optional.
	MTU func() int
	// NetNS is the path of the node's network namespace; empty means that of the process.
	NetNS string
	Log   *slog.Logger
}

// A Server serves CNI verbs. Verbs on one container follow one another, those on different ones run in parallel.
type Server struct {
	config Config
	host   ns.NetNS
	log    *slog.Logger
	locks  locks

	records  records
	podLinks podLinks
	absent   absent
}

// NewServer opens the node's namespace; Close releases it.
func NewServer(c Config) (*Server, error) {
	host, err := openHost(c.NetNS)
	if err != nil {
		return nil, err
	}
	return &Server{config: c, host: host, log: c.Log, locks: locks{held: map[string]*lock{}}, records: records(c.Records)}, nil
}

// Close must be called when no verb is being served.
func (s *Server) Close() error { return s.host.Close() }

// Handle serves one invocation. It never fails otherwise than by an error in the response.
func (s *Server) Handle(ctx context.Context, r agentapi.CNIRequest) agentapi.CNIResponse {
	start := time.Now()
	result, err := s.serve(ctx, r)
	log := s.log.With("op", r.Command, "container", r.ContainerID, "duration", time.Since(start))
	if err != nil {
		log.Warn("CNI verb failed", "err", err)
		return agentapi.CNIResponse{Error: asCNIError(err)}
	}
	log.Debug("CNI verb served")
	return agentapi.CNIResponse{Result: result}
}

func (s *Server) serve(ctx context.Context, r agentapi.CNIRequest) (json.RawMessage, error) {
	switch r.Command {
	case "ADD":
		return s.add(ctx, r)
	case "DEL":
		return nil, s.del(ctx, r)
	case "CHECK":
		return nil, s.check(ctx, r)
	case "STATUS":
		return nil, s.status(r)
	case "GC":
		return nil, s.gc(ctx, r)
	default:
		return nil, failure(types.ErrInvalidEnvironmentVariables, "serve verb", fmt.Errorf("CNI_COMMAND is %q", r.Command))
	}
}

func failure(code uint, what string, err error) error {
	return &agentapi.CNIError{Code: code, Msg: what, Details: err.Error()}
}

func asCNIError(err error) *agentapi.CNIError {
	var coded *agentapi.CNIError
	if errors.As(err, &coded) {
		return coded
	}
	return &agentapi.CNIError{Code: types.ErrInternal, Msg: err.Error()}
}

// attachmentOf checks what the environment says. The executable has checked the same, but the socket is an interface of
// its own.
func attachmentOf(r agentapi.CNIRequest, network string) (Attachment, error) {
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return Attachment{}, failure(types.ErrInvalidEnvironmentVariables, "read CNI_CONTAINERID", err)
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return Attachment{}, failure(types.ErrInvalidEnvironmentVariables, "read CNI_IFNAME", err)
	}
	if r.NetNS != "" && !filepath.IsAbs(r.NetNS) {
		return Attachment{}, failure(types.ErrInvalidEnvironmentVariables, "read CNI_NETNS", fmt.Errorf("%q is not an absolute path", r.NetNS))
	}
	pod, err := parseArgs(r.Args)
	if err != nil {
		return Attachment{}, failure(types.ErrInvalidEnvironmentVariables, "read CNI_ARGS", err)
	}
	return Attachment{Key: Key{network, r.ContainerID, r.IfName}, NetNS: r.NetNS, Pod: pod}, nil
}

// A locks value serialises work by container.
type locks struct {
	mu   sync.Mutex // guards held and the counts in it
	held map[string]*lock
}

type lock struct {
	turn  chan struct{} // capacity 1: full while taken
	users int
}

// try takes the container's turn if nobody has it.
func (l *locks) try(k Key) (release func(), ok bool) {
	one, leave := l.enter(k)
	select {
	case one.turn <- struct{}{}:
		return func() { <-one.turn; leave() }, true
	default:
		leave()
		return nil, false
	}
}

// take waits for the container's turn, or for the context's end.
func (l *locks) take(ctx context.Context, k Key) (release func(), err error) {
	one, leave := l.enter(k)
	select {
	case one.turn <- struct{}{}:
		return func() { <-one.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("wait for another verb on %s: %w", k, ctx.Err())
	}
}

// enter finds the container's lock, which stays for as long as somebody uses it.
func (l *locks) enter(k Key) (one *lock, leave func()) {
	name := k.Network + "/" + k.ContainerID
	l.mu.Lock()
	one, ok := l.held[name]
	if !ok {
		one = &lock{turn: make(chan struct{}, 1)}
		l.held[name] = one
	}
	one.users++
	l.mu.Unlock()
	return one, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.held, name)
		}
	}
}
