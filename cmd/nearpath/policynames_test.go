package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// fakeKernelAnswers have names, and forget those that match.
type fakeKernelAnswers struct {
	ready chan struct{}
	names []string
}

func (f *fakeKernelAnswers) Ready() <-chan struct{} { return f.ready }

func (f *fakeKernelAnswers) DropMatching(match func(string) bool) int {
	before := len(f.names)
	f.names = slices.DeleteFunc(f.names, match)
	return before - len(f.names)
}

// A namesRig is policies that know names once they are allowed to look.
type namesRig struct {
	*policyNames
	kernel *fakeKernelAnswers
	look   chan struct{}
	told   atomic.Int64 // how often
	used   map[netip.Addr]bool
}

func newNamesRig(t *testing.T, path string) *namesRig {
	t.Helper()
	rig := &namesRig{kernel: &fakeKernelAnswers{ready: make(chan struct{})}, look: make(chan struct{}, 100), used: map[netip.Addr]bool{}}
	rig.policyNames = newPolicyNames(policyNamesConfig{
		Kernel: rig.kernel, Domains: []string{"cluster.local"}, Path: path, Log: slog.New(slog.DiscardHandler),
		Refresh: func(ctx context.Context) error {
			select {
			case <-rig.look:
			case <-ctx.Done():
				return ctx.Err()
			}
			_, serial := rig.names.Changed()
			rig.names.Applied(serial)
			rig.told.Add(1)
			return nil
		},
		InUse: func() (map[netip.Addr]bool, error) { return rig.used, nil },
	})
	return rig
}

// run runs the task until the function that it returns is called.
func (r *namesRig) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func addressAnswer(t *testing.T, records ...string) *dns.Msg {
	t.Helper()
	var m *dns.Msg
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		if m == nil {
			m = new(dns.Msg).SetReply(new(dns.Msg).SetQuestion(rr.Header().Name, dns.TypeA))
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func TestPolicyNamesComeBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "names.json")
	synctest.Test(t, func(t *testing.T) {
		rig := newNamesRig(t, path)
		defer rig.run(t)()
		rig.kernel.names = []string{"www.example.com.", "example.com.", "www.example.net."}
		reply := func(records ...string) (sent *atomic.Bool) {
			sent = new(atomic.Bool)
			m := addressAnswer(t, records...)
			go func() {
				rig.beforeReply(m)
				sent.Store(true)
			}()
			synctest.Wait()
			return sent
		}
		if !reply("www.example.com. 60 IN A 192.0.2.1").Load() {
			t.Error("an answer waits though no policy has a name")
		}
		rig.patterns([]string{"*.example.com", "*.cluster.local"})
		rig.look <- struct{}{}
		synctest.Wait()
		if len(rig.kernel.names) != 3 {
			t.Error("answers are taken from the kernel before it is known which it has")
		}
		close(rig.kernel.ready)
		synctest.Wait()
		if !slices.Equal(rig.kernel.names, []string{"example.com.", "www.example.net."}) {
			t.Errorf("the kernel goes on to answer %v", rig.kernel.names)
		}
		if !reply("www.example.net. 60 IN A 192.0.2.9").Load() || !reply("db.default.svc.cluster.local. 5 IN A 10.0.0.1").Load() {
			t.Error("an answer waits that no policy asks for")
		}
		first := reply("api.default.svc.cluster.local. 60 IN CNAME www.example.com.", "www.example.com. 60 IN A 192.0.2.1")
		second := reply("www.example.com. 60 IN A 192.0.2.1")
		if first.Load() || second.Load() {
			t.Error("an answer is out before policies know it")
		}
		rig.look <- struct{}{}
		synctest.Wait()
		if !first.Load() || !second.Load() {
			t.Error("an answer waits though policies know it")
		}
		if got := rig.names.Addrs("*.example.com"); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("192.0.2.1")}) {
			t.Errorf("learned %v", got)
		}
		if got := rig.names.Addrs("*.cluster.local"); len(got) > 0 {
			t.Errorf("learned %v of the cluster's names", got)
		}
		late := reply("www.example.com. 60 IN A 192.0.2.2")
		time.Sleep(maxNameWait)
		synctest.Wait()
		if !late.Load() || rig.late.Load() != 1 {
			t.Error("an answer waits for ever")
		}
	})
}

func TestPolicyNamesEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "names.json")
	synctest.Test(t, func(t *testing.T) {
		rig := newNamesRig(t, path)
		for range cap(rig.look) {
			rig.look <- struct{}{}
		}
		defer rig.run(t)()
		rig.patterns([]string{"www.example.com"})
		addr := netip.MustParseAddr("192.0.2.1")
		rig.used[addr] = true
		rig.beforeReply(addressAnswer(t, "www.example.com. 60 IN A 192.0.2.1"))
		time.Sleep(time.Hour)
		if len(rig.names.Addrs("www.example.com")) == 0 {
			t.Error("an address that is in use is forgotten")
		}
		told := rig.told.Load()
		delete(rig.used, addr)
		time.Sleep(2 * nameSweep)
		if len(rig.names.Addrs("www.example.com")) > 0 || rig.told.Load() == told {
			t.Error("an address outlives its TTL, or policies are not told")
		}
		time.Sleep(2 * nameKeep)
		if _, err := os.Stat(path); err == nil {
			t.Error("nothing is known, and kept")
		}
	})
}

func TestPolicyNamesAreKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "names.json")
	synctest.Test(t, func(t *testing.T) {
		old := newNamesRig(t, path)
		old.look <- struct{}{}
		old.look <- struct{}{}
		stop := old.run(t)
		old.patterns([]string{"*.example.com"})
		old.beforeReply(addressAnswer(t, "www.example.com. 600 IN A 192.0.2.1"))
		at := newNamesRig(t, path) // the old one may not have come to its end
		time.Sleep(nameSave)
		synctest.Wait()
		killed := newNamesRig(t, path)
		stop()
		ended := newNamesRig(t, path)
		for _, rig := range []*namesRig{at, killed, ended} {
			rig.patterns([]string{"*.example.com"})
			if len(rig.names.Addrs("*.example.com")) != 1 {
				t.Error("an address is lost with the process")
			}
		}
	})
	line := fmt.Sprintf(`{"written": %q, "names": [{"name": "a.example.com", "addrs": ["192.0.2.1"], "ttl": 0}]}`, time.Now().Format(time.RFC3339))
	for file, pairs := range map[string]int{"{": 0, line + "\n{": 1} {
		for _, name := range []string{path, path + journalSuffix} {
			if err := errors.Join(os.RemoveAll(path), os.WriteFile(name, []byte(file), 0o600)); err != nil {
				t.Fatal(err)
			}
			if rig := newNamesRig(t, path); rig.names.Counts().Pairs != pairs {
				t.Errorf("%d pairs are read of %s", rig.names.Counts().Pairs, file)
			}
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}
