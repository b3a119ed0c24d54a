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

	mu        sync.Mutex // guards everything below
	closed    bool
	seq       int // of the last object made
	subnets   map[string]*subnet
	enis      map[string]*eni
	instances map[string]*instance
	network   network
	byAddr    map[netip.Addr]*eni // every private address in use
	once      onceTable
	nonces    nonceTable
	faults    []*Fault
	calls     map[string]int
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
		enis:      map[string]*eni{},
		instances: map[string]*instance{},
		byAddr:    map[netip.Addr]*eni{},
		once:      onceTable{},
		nonces:    nonceTable{seen: map[string]struct{}{}},
		calls:     map[string]int{},
		sessions:  map[string]*session{},
		mdTokens:  map[string]time.Time{},
	}
	for _, v := range cfg.VSwitches {
		if v.ZoneID == "" {
			v.ZoneID = cfg.ZoneID
		}
		s := newSubnet(v)
		c.subnets[v.ID] = s
		if cfg.Fabric == nil {
			continue
		}
		if err := cfg.Fabric.AddVSwitch(v.CIDR, s.gateway); err != nil {
			return nil, fmt.Errorf("add vSwitch %s: %w", v.ID, err)
		}
	}
	if err := c.newNetwork(); err != nil {
		return nil, fmt.Errorf("configure the simulated cloud: %w", err)
	}
	return c, nil
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

// Handler serves the RPC API at "/" and the metadata service under "/latest/".
func (c *Cloud) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", c.serveRPC)
	mux.HandleFunc("/latest/", c.serveMetadata)
	return mux
}

// ENIs returns every ENI as it is now, oldest first.
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
	c.pending.Go(func() {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
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
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
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
