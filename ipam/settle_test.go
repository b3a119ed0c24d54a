package ipam

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// After a restart without a cloud, of which calls hear nothing for 40 seconds, the journal's idle addresses are leased
// soon.
func TestSilentCloudDoesNotKeepIdleAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 10)
		c := testConfig(t, cloud)
		p := mustOpen(t, c)
		stop := start(t, p)
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		stop()
		cloud.set(func() {
			cloud.fail = func(string) error { return fmt.Errorf("no route: %w", aliyun.ErrUnavailable) }
			cloud.latency = 40 * time.Second
		})
		p = mustOpen(t, c)
		defer start(t, p)()
		began := time.Now()
		mustAllocate(t, p, 1)
		if took := time.Since(began); took > 2*settleAfter {
			t.Errorf("an idle address was leased after %s", took)
		}
		select {
		case <-p.Ready():
		case <-time.After(time.Second):
			t.Error("the pool is not ready")
		}
	})
}

// An ENI that somebody deleted leaves nothing behind on the node, and no lanes.
func TestForgottenENIIsUnwired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 10)
		c := testConfig(t, cloud)
		links := newFakeLinks()
		c.Links = links
		p := mustOpen(t, c)
		defer start(t, p)()
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		e := p.ENIs()[0]
		if !links.has(e.MAC) {
			t.Fatal("the ENI is not wired")
		}
		cloud.set(func() { delete(cloud.enis, e.ID) })
		p.resyncSoon()
		p.kick()
		eventually(t, "the ENI is forgotten", func() bool {
			now := p.ENIs()
			return len(now) == 1 && now[0].ID != e.ID && now[0].Wired
		})
		if links.has(e.MAC) {
			t.Error("the ENI that is gone is wired")
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for name := range p.lanes {
			if token, ok := strings.CutPrefix(name, "eni/"); ok {
				if token, _, _ = strings.Cut(token, "/"); p.ledger.enis[token] == nil {
					t.Errorf("lane %s is of no ENI", name)
				}
			}
		}
	})
}
