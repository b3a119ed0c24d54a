package upstream

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A loop probe asks each endpoint for a name nobody else can know: should the question come to this process, that endpoint
// leads back here. It goes on being probed, and is asked again when it does not any more.

const (
	loopType = dns.TypeHINFO // as the plugin `loop` of CoreDNS
	// firstLoopProbe is how long after the start the first probe is made: when the server listens.
	firstLoopProbe = time.Second
)

// tokens are the names of loop probes on their way.
type tokens struct {
	mu    sync.Mutex
	known map[string]bool // by the first label: whether it came back
}

func (t *tokens) issue() string {
	var b [16]byte
	_, _ = cryptorand.Read(b[:]) // never fails
	token := hex.EncodeToString(b[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = make(map[string]bool)
	}
	t.known[token] = false
	return token
}

// redeem ends a token, and returns whether it came back.
func (t *tokens) redeem(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	back := t.known[token]
	delete(t.known, token)
	return back
}

// IsLoopProbe is whether a client's question is a loop probe of this process, and remembers that it came back.
func (p *Pool) IsLoopProbe(q dns.Question) bool {
	label, _, _ := strings.Cut(q.Name, ".")
	if q.Qtype != loopType || len(label) != 32 {
		return false
	}
	label = strings.ToLower(label)
	p.tokens.mu.Lock()
	defer p.tokens.mu.Unlock()
	if _, ours := p.tokens.known[label]; !ours {
		return false
	}
	p.tokens.known[label] = true
	return true
}

func (u *Upstream) watchLoops() {
	timer := time.NewTimer(min(u.Loop, firstLoopProbe))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-u.life.Done():
			return
		}
		u.probeLoops()
		// Not all nodes at once.
		timer.Reset(u.Loop - rand.N(u.Loop/8+1)) //nolint:gosec // nobody gains by guessing
	}
}

// probeLoops probes all endpoints at the same time, and tells what has changed.
func (u *Upstream) probeLoops() {
	members := *u.members.Load()
	now := make([]bool, len(members))
	var probes sync.WaitGroup
	for i, m := range members {
		probes.Go(func() { now[i] = u.loops(m) })
	}
	probes.Wait()
	for i, m := range members {
		if m.looped.Swap(now[i]) != now[i] {
			u.tell(m, now[i])
		}
	}
}

// loops probes one endpoint. When there is no reply, what was known of it stays.
func (u *Upstream) loops(m *member) bool {
	token := u.Pool.tokens.issue()
	q, err := pack(token+"."+strings.TrimPrefix(u.Zone, "."), key{qtype: loopType, qclass: dns.ClassINET, flags: flagRD})
	if err == nil {
		ctx, cancel := context.WithTimeout(u.life, u.ReadTimeout)
		defer cancel()
		_, err = m.exchange(ctx, q, attempt{probe: true})
	}
	back := u.Pool.tokens.redeem(token)
	return back || err != nil && m.looped.Load()
}

func (u *Upstream) tell(m *member, looped bool) {
	to, value := m.addr.String(), 0.0
	if looped {
		value = 1
		u.Log.Error("an upstream leads back to this server and is not asked until it does not", "upstream", to, "zone", u.Zone)
	} else {
		u.Log.Info("an upstream does not lead back to this server any more", "upstream", to, "zone", u.Zone)
	}
	u.Metrics.looped.WithLabelValues(to, u.Zone).Set(value)
	if u.Notify != nil {
		u.Notify(Event{Target: to, Zone: u.Zone, Looped: looped})
	}
}
