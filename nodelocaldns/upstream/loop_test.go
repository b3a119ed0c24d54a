package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// An endpoint that leads back to us is not asked, and is again when it does not any more; without others the error says so.
func TestLoop(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	var pool atomic.Pointer[Pool]
	var back atomic.Bool
	back.Store(true)
	n.reply = func(a *asked, to netip.AddrPort) []byte {
		if back.Load() && to == port53("192.0.2.1") && pool.Load().IsLoopProbe(a.Question[0]) {
			return failing(dns.RcodeServerFailure)(a)
		}
		return packed(a.answer(to.Addr().String()))
	}
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		u := n.upstream(t, Config{
			Zone: "example.", Targets: at(UDPFirst, "192.0.2.1", "192.0.2.2"), Policy: Sequential, Loop: time.Minute,
			Notify: func(e Event) { events = append(events, e) },
		})
		pool.Store(u.Pool)
		time.Sleep(2 * time.Second)
		if from, _ := took(t, u, "a.example."); from != "192.0.2.2" {
			t.Errorf("a question went to %s", from)
		}
		n.count(func() { n.dead = func(to netip.AddrPort) bool { return to == port53("192.0.2.2") } })
		time.Sleep(2 * time.Minute) // nothing comes back from either: what is known of them stays
		back.Store(false)
		time.Sleep(time.Minute)
		if from, _ := took(t, u, "b.example."); from != "192.0.2.1" {
			t.Errorf("a question went to %s", from)
		}
		want := []Event{{"192.0.2.1:53", "example.", true}, {"192.0.2.1:53", "example.", false}}
		if fmt.Sprint(events) != fmt.Sprint(want) {
			t.Errorf("events %v, want %v", events, want)
		}
	})
}

func TestEverythingLoops(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	var pool atomic.Pointer[Pool]
	n.reply = func(a *asked, to netip.AddrPort) []byte {
		pool.Load().IsLoopProbe(a.Question[0])
		return packed(a.answer(to.Addr().String()))
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(UDPFirst, "192.0.2.1"), Loop: time.Minute})
		pool.Store(u.Pool)
		time.Sleep(2 * time.Second)
		if _, err := u.Exchange(t.Context(), question("www.example.")); !errors.Is(err, ErrLooped) {
			t.Errorf("error %v", err)
		}
	})
}
