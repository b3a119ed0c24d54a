package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A Cloud is a simulated region. Methods are safe for concurrent use.
type Cloud struct {
	cfg     Config
	actions map[actionKey]action
	done    chan struct{}
	pending sync.WaitGroup // transitions under way
	pvtz    *PrivateZone   // has a lock of its own

	mu        sync.Mutex // guards everything below
	closed    bool
	seq       int // of the last object made
	subnets   map[string]*subnet
	groups    map[string]*SecurityGroup
	enis      map[string]*eni
	ghosts    []*eni // gone, but still seen
	instances map[string]*instance
	network   network
	byAddr    map[netip.Addr]*eni // every private address in use
	once      onceTable
	nonces    nonceTable
	injected  []*Injection
	buckets   []*bucket
	calls     map[string]int // by action
	log       callLog
	changing  map[string]bool      // ENIs that a call changes, while conflicts are refused
	events    map[string]int       // random choices made, by kind
	sessions  map[string]*session  // temporary keys by key ID
	mdTokens  map[string]time.Time // metadata tokens by text, with their end
}

// New returns a cloud with its vSwitches and nothing else. Close it to end its transitions.
func New(cfg Config) (*Cloud, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configure the simulated cloud: %w", err)
	}
	c := &Cloud{
		cfg:       cfg,
		actions:   actions(),
		done:      make(chan struct{}),
		subnets:   map[string]*subnet{},
		groups:    map[string]*SecurityGroup{},
		enis:      map[string]*eni{},
		instances: map[string]*instance{},
		byAddr:    map[netip.Addr]*eni{},
		once:      onceTable{},
		nonces:    nonceTable{seen: map[string]struct{}{}},
		buckets:   newBuckets(cfg.RateLimits),
		calls:     map[string]int{},
		log:       callLog{most: cfg.MaxCalls},
		changing:  map[string]bool{},
		events:    map[string]int{},
		sessions:  map[string]*session{},
		mdTokens:  map[string]time.Time{},
	}
	for _, g := range cfg.SecurityGroups {
		c.groups[g.ID] = &g
	}
	for _, v := range cfg.VSwitches {
		if err := c.addVSwitch(v); err != nil {
			return nil, err
		}
	}
	if err := c.newNetwork(); err != nil {
		return nil, fmt.Errorf("configure the simulated cloud: %w", err)
	}
	if err := c.newPrivateZone(); err != nil {
		return nil, fmt.Errorf("configure the simulated cloud: %w", err)
	}
	for _, f := range cfg.Faults {
		c.Inject(f)
	}
	return c, nil
}

func (c *Cloud) addVSwitch(v VSwitch) error {
	s := newSubnet(v)
	c.subnets[v.ID] = s
	if c.cfg.Fabric == nil {
		return nil
	}
	for _, n := range s.nets() {
		if err := c.cfg.Fabric.AddVSwitch(n); err != nil {
			return fmt.Errorf("add %s of vSwitch %s: %w", n.Subnet, v.ID, err)
		}
	}
	return nil
}

// Close ends pending transitions where they are and waits for Fabric calls under way. It does not unplug anything.
func (c *Cloud) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.done)
	}
	c.mu.Unlock()
	c.pending.Wait()
	return nil
}

// Handler serves the API at "/", the metadata service under "/latest/", that of one instance under
// "/instances/ID/latest/", and the control of the simulation under "/sim/".
func (c *Cloud) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", c.serveRPC)
	mux.HandleFunc("/latest/", func(w http.ResponseWriter, r *http.Request) { c.serveMetadata(w, r, "") })
	mux.HandleFunc("/instances/{id}/latest/", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		http.StripPrefix("/instances/"+id, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.serveMetadata(w, r, id)
		})).ServeHTTP(w, r)
	})
	mux.Handle("/sim/", c.control())
	return mux
}

// ENIs returns every ENI as it is now, whatever lags, oldest first.
func (c *Cloud) ENIs() []aliyun.ENI {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []aliyun.ENI
	for _, e := range c.sortedENIs() {
		all = append(all, e.snapshot())
	}
	return all
}

// later runs a transition after its delay. With none it runs before later returns. The caller holds no lock.
func (c *Cloud) later(delay time.Duration, transition func()) {
	if delay <= 0 {
		transition()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	fired, stop := c.cfg.Clock.NewTimer(delay)
	c.pending.Go(func() {
		defer stop()
		select {
		case <-fired:
			transition()
		case <-c.done:
		}
	})
}

// hold is the latency of a call. It ends early when the client is gone or the cloud closes.
func (c *Cloud) hold(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	fired, stop := c.cfg.Clock.NewTimer(d)
	defer stop()
	select {
	case <-fired:
	case <-ctx.Done():
	case <-c.done:
	}
}

// nextID makes IDs that sort by age. The caller holds c.mu.
func (c *Cloud) nextID(prefix string) (string, int) {
	c.seq++
	return fmt.Sprintf("%s-sim%08x", prefix, c.seq), c.seq
}

// sortedENIs returns the ENIs oldest first. The caller holds c.mu.
func (c *Cloud) sortedENIs() []*eni {
	all := make([]*eni, 0, len(c.enis))
	for _, e := range c.enis {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *eni) int { return a.seq - b.seq })
	return all
}

// fabricError hides the reason from the client, as the real API does, and logs it.
func (c *Cloud) fabricError(op, eniID string, err error) error {
	c.cfg.Logger.Error("fabric call failed", "op", op, "eni", eniID, "err", err)
	return refuse(codeInternal, "The request processing has failed due to some unknown error.")
}

var errClosed = errors.New("simulated cloud is closed")
