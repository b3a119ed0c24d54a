package ipam

import (
	"fmt"
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
