package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A Transport is how an endpoint is asked.
type Transport uint8

// UDPFirst asks over UDP, and over TCP what does not fit: resolvers of a VPC are made for it. TCP asks over TCP
// connections that stay open.
const (
	UDPFirst Transport = iota
	TCP
)

// A Policy is the order in which healthy endpoints are asked.
type Policy uint8

// Nearest takes those whose response times are about the best, and among them the one with the least to do. Random takes
// the one with the least to do, wherever it is. Sequential takes the first one in the configuration.
const (
	Nearest Policy = iota
	Random
	Sequential
)

// A Target is an address, or a Service whose ready endpoints are meant: those of the port that the Service calls 53.
type Target struct {
	Addr      netip.AddrPort
	Service   cluster.Name // when Addr is the zero value
	Transport Transport
}

// A Config says what an Upstream asks and how. Zero values mean what the fields say.
type Config struct {
	Zone    string // the domain asked for, which loop probes are made in; "." when empty
	Targets []Target
	// Snapshot knows the endpoints of Services; nil when no Target is one.
	Snapshot func() *cluster.Snapshot

	Policy      Policy
	Connections int           // TCP connections to one endpoint, four times as many while some are silent; 0 means 4
	Expire      time.Duration // after which connections that nobody uses are closed; 0 means 60 s
	ReadTimeout time.Duration // of one attempt; 0 means 2 s
	Timeout     time.Duration // of one question with all attempts; 0 means 4 s: less than any client waits
	// MaxFails is how many attempts in a row may fail before an endpoint is asked only when no other is left. 0 means that
	// it is always asked, and never probed.
	MaxFails      int
	HealthCheck   time.Duration // between probes of an endpoint that fails; 0 means 500 ms
	HealthName    string        // whose NS records a probe asks for; "." when empty
	NoRecursion   bool          // in probes
	MaxConcurrent int           // questions in flight, above which the oldest is dropped; 0 means 4096
	NoHedge       bool          // do not ask twice as a reply is late; what fails is asked again in any case
	Failover      []int         // response codes for which one endpoint more is asked; nil means SERVFAIL and REFUSED
	Loop          time.Duration // between loop probes; 0 means none
	Source        netip.Addr    // of all questions; the zero value leaves it to the routes

	Pool    *Pool
	Metrics *Metrics
	// Notify is called when a loop is found and when it is gone, one call at a time. It must not block.
	Notify func(Event)
	Log    *slog.Logger
}

// An Event says that a target leads back to this server, or does not any more.
type Event struct {
	Target string // address and port
	Zone   string
	Looped bool
}

// An Upstream asks the servers of one zone. Its methods are safe for concurrent use.
type Upstream struct {
	Config
	life    context.Context
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	budget  budget
	flights flights
	seen    atomic.Pointer[cluster.Snapshot] // that members was made from

	mu      sync.Mutex // guards members while they are changed
	members atomic.Pointer[[]*member]
}

// A member is an endpoint of an Upstream.
type member struct {
	*endpoint
	looped atomic.Bool
}

// Errors of Exchange. Others are those of the last endpoint that was asked.
var (
	ErrNoEndpoint = errors.New("no endpoint is known")
	ErrLooped     = errors.New("every endpoint leads back to this server")
	ErrDropped    = errors.New("too many questions are in flight, and this is the oldest")
)

// New returns an Upstream that is ready to be asked. Whoever makes it must Close it.
func New(c Config) (*Upstream, error) {
	c.Zone = dns.CanonicalName(cmp.Or(c.Zone, "."))
	c.Connections = cmp.Or(c.Connections, 4)
	c.Expire = cmp.Or(c.Expire, time.Minute)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, 2*time.Second)
	c.Timeout = cmp.Or(c.Timeout, 4*time.Second)
	c.HealthCheck = cmp.Or(c.HealthCheck, 500*time.Millisecond)
	c.HealthName = cmp.Or(c.HealthName, ".")
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, 4096)
	if c.Failover == nil {
		c.Failover = []int{dns.RcodeServerFailure, dns.RcodeRefused}
	}
	if _, err := pack(c.HealthName, key{}); err != nil {
		return nil, err
	}
	for _, t := range c.Targets {
		if t.Addr == (netip.AddrPort{}) && c.Snapshot == nil {
			return nil, fmt.Errorf("service %s: there is no source of Services", t.Service)
		}
	}
	u := &Upstream{Config: c, budget: budget{tenths: maxBudget}}
	u.life, u.cancel = context.WithCancelCause(context.Background())
	u.members.Store(new([]*member))
	u.flights.init(c.MaxConcurrent)
	u.follow()
	if c.Loop > 0 {
		u.running.Go(u.watchLoops)
	}
	if c.Snapshot != nil {
		u.running.Go(u.watchServices)
	}
	return u, nil
}

// Close fails what is in flight and gives the endpoints back.
func (u *Upstream) Close() {
	u.flights.close()
	u.cancel(errClosed)
	u.running.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range *u.members.Load() {
		u.Pool.release(m.endpoint)
	}
	u.members.Store(new([]*member))
}

func (u *Upstream) settings(t Transport) settings {
	s := settings{
		transport: t, connections: u.Connections, expire: u.Expire, maxFails: u.MaxFails, probeEvery: u.HealthCheck,
		probeName: u.HealthName, source: u.Source,
	}
	if !u.NoRecursion {
		s.probeFlags = flagRD
	}
	return s
}

// choose returns the member to ask next: of those asked least often, by what asked says, the most promising. It is nil when
// there is none.
func (u *Upstream) choose(asked func(*member) int) *member {
	type candidate struct {
		*member
		standing
		asked, order int
	}
	now := time.Now()
	var all []candidate
	for i, m := range *u.members.Load() {
		if !m.looped.Load() {
			all = append(all, candidate{m, m.standing(now), asked(m), i})
		}
	}
	if len(all) == 0 {
		return nil
	}
	least := slices.MinFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.asked, b.asked), cmp.Compare(a.state, b.state), cmp.Compare(a.average, b.average))
	})
	near := 2*least.average + nearby
	all = slices.DeleteFunc(all, func(c candidate) bool {
		return c.asked > least.asked || c.state > least.state || u.Policy == Nearest && c.average > near
	})
	if u.Policy == Sequential {
		return all[0].member
	}
	return leastLoaded(all, func(c candidate) int { return c.waiting }).member
}
