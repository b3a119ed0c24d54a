package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/agentapi"
)

func newTestServer(t *testing.T, c Config) *Server {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	if c.Addresses == nil {
		c.Addresses = newFakeAddresses()
	}
	if c.Pods == nil {
		c.Pods = newFakePods()
	}
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRequestErrors(t *testing.T) {
	s := newTestServer(t, Config{Status: func() error { return errors.New("pool is not ready") }})
	conf := []byte(`{"cniVersion":"1.1.0","name":"net","type":"nearpath-cni"}`)
	for name, c := range map[string]struct {
		request agentapi.CNIRequest
		code    uint
		want    string
	}{
		"unknown verb":        {agentapi.CNIRequest{Command: "PING", Config: conf}, 4, `CNI_COMMAND is "PING"`},
		"bad configuration":   {agentapi.CNIRequest{Command: "ADD", Config: []byte(`{}`)}, 7, `"name": is missing`},
		"bad container":       {agentapi.CNIRequest{Command: "ADD", ContainerID: "../x", IfName: "eth0", NetNS: "/x", Config: conf}, 4, "containerID"},
		"no interface":        {agentapi.CNIRequest{Command: "ADD", ContainerID: "c", NetNS: "/x", Config: conf}, 4, "interface name is empty"},
		"relative namespace":  {agentapi.CNIRequest{Command: "DEL", ContainerID: "c", IfName: "eth0", NetNS: "x", Config: conf}, 4, "not an absolute path"},
		"no namespace":        {agentapi.CNIRequest{Command: "ADD", ContainerID: "c", IfName: "eth0", NetNS: "/nowhere/at/all", Config: conf}, 8, "open network namespace"},
		"bad arguments":       {agentapi.CNIRequest{Command: "ADD", ContainerID: "c", IfName: "eth0", NetNS: "/x", Args: "X", Config: conf}, 4, "KEY=VALUE"},
		"after a plugin":      {agentapi.CNIRequest{Command: "ADD", ContainerID: "c", IfName: "eth0", NetNS: "/x", Config: []byte(`{"name":"net","prevResult":{}}`)}, 7, "must be the first"},
		"not ready":           {agentapi.CNIRequest{Command: "STATUS", Config: conf}, 50, "pool is not ready"},
		"check of a stranger": {agentapi.CNIRequest{Command: "CHECK", ContainerID: "c", IfName: "eth0", NetNS: "/x", Config: conf}, 3, "has no address"},
		"GC without a list":   {agentapi.CNIRequest{Command: "GC", Config: conf}, 7, "every pod would be deleted"},
	} {
		got := s.Handle(t.Context(), c.request).Error
		if got == nil || got.Code != c.code || !strings.Contains(got.Error(), c.want) {
			t.Errorf("%s: %+v, want code %d and %q", name, got, c.code, c.want)
		}
	}
}

// A runtime is told whether it is about new pods only.
func TestStatusLimited(t *testing.T) {
	s := newTestServer(t, Config{Status: func() error { return fmt.Errorf("the uplink is gone: %w", ErrLimited) }})
	answer := s.Handle(t.Context(), agentapi.CNIRequest{Command: "STATUS", Config: []byte(`{"name":"net"}`)})
	if answer.Error == nil || answer.Error.Code != 51 || !strings.Contains(answer.Error.Error(), "the uplink is gone") {
		t.Errorf("%+v", answer.Error)
	}
}

func TestStatusReady(t *testing.T) {
	s := newTestServer(t, Config{})
	r := agentapi.CNIRequest{Command: "STATUS", Config: []byte(`{"name":"net"}`)}
	if answer := s.Handle(t.Context(), r); answer.Error != nil || answer.Result != nil {
		t.Errorf("%+v", answer)
	}
}

func TestWatch(t *testing.T) {
	now := time.Unix(0, 0)
	for name, c := range map[string]struct {
		looks []time.Duration
		seen  []bool
		due   []bool
	}{
		"once is not enough": {[]time.Duration{0}, []bool{true}, []bool{false}},
		"twice, too close":   {[]time.Duration{0, 29 * time.Second}, []bool{true, true}, []bool{false, false}},
		"twice, far enough":  {[]time.Duration{0, 30 * time.Second}, []bool{true, true}, []bool{false, true}},
		"well in between":    {[]time.Duration{0, 20 * time.Second, 40 * time.Second}, []bool{true, false, true}, []bool{false, false, false}},
	} {
		var w Watch[string]
		for i, at := range c.looks {
			var suspects []string
			if c.seen[i] {
				suspects = []string{"x"}
			}
			if due := w.Observe(now.Add(at), suspects); (len(due) == 1) != c.due[i] {
				t.Errorf("%s: look %d gives %v", name, i, due)
			}
		}
	}
}

// Whatever is due was a suspect on this look and on one at least 30 seconds earlier, with no good look in between.
func TestWatchProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Watch[int]
		now := time.Unix(0, 0)
		since := map[int]time.Time{}
		for range rapid.IntRange(1, 20).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "later")) * time.Second)
			suspects := rapid.SliceOfDistinct(rapid.IntRange(0, 4), func(i int) int { return i }).Draw(t, "suspects")
			due := map[int]bool{}
			for _, k := range w.Observe(now, suspects) {
				due[k] = true
			}
			still := map[int]time.Time{}
			for _, k := range suspects {
				first, was := since[k]
				if !was {
					first = now
				}
				still[k] = first
				if want := was && now.Sub(first) >= secondLook; due[k] != want {
					t.Fatalf("%d since %s at %s: due %v", k, first, now, due[k])
				}
				delete(due, k)
			}
			if len(due) > 0 {
				t.Fatalf("due without being suspects: %v", due)
			}
			since = still
		}
	})
}

func TestOrphans(t *testing.T) {
	here, gone := wiringOf(Veth, "10.0.0.1"), wiringOf(Veth, "10.0.0.2", "fd00::2")
	gone.Key.ContainerID = "gone"
	known := []attached{{wiring: here, leased: true}, {wiring: gone, leased: true}}
	links := map[string]linkState{here.Key.HostLink(): {index: 7}}
	if got := orphans(known, links); len(got) != 1 || got[0] != gone.Key {
		t.Errorf("orphans are %v", got)
	}
}

func TestLost(t *testing.T) {
	for _, datapath := range datapaths {
		w := wiringOf(datapath, "10.1.2.3", "fd00::3")
		v4, v6 := w.Lease.Addrs[0], w.Lease.Addrs[1]
		link, mac := w.hostLink(), w.Lease.MAC
		if datapath != IPVlan {
			_, podMAC := w.Key.macs()
			mac = podMAC.String()
		}
		for name, tt := range map[string]struct {
			change func(*hostState)
			lost   bool
		}{
			"as it should be":   {func(*hostState) {}, false},
			"no route":          {func(s *hostState) { delete(s.routes, v4) }, true},
			"other link":        {func(s *hostState) { s.routes[v6] = 8 }, true},
			"no neighbour":      {func(s *hostState) { delete(s.neighbours, neighbour{7, v4}) }, true},
			"another neighbour": {func(s *hostState) { s.neighbours[neighbour{7, v6}] = "02:00:00:00:00:01" }, true},
			"link is down":      {func(s *hostState) { s.links[link] = linkState{index: 7} }, datapath != IPVlan},
			"all of it":         {func(s *hostState) { s.routes, s.neighbours = nil, nil }, true},
			"link is gone":      {func(s *hostState) { *s = hostState{} }, false},
		} {
			s := hostState{
				links:  map[string]linkState{link: {index: 7, up: true}},
				routes: map[netip.Addr]int{v4: 7, v6: 7}, neighbours: map[neighbour]string{{7, v4}: mac, {7, v6}: mac},
			}
			tt.change(&s)
			if got := len(lost([]attached{{wiring: w, leased: true}}, s)) == 1; got != tt.lost {
				t.Errorf("%s: %s: lost %v, want %v", datapath, name, got, tt.lost)
			}
		}
	}
}

func TestLocks(t *testing.T) {
	l := locks{held: map[string]*lock{}}
	k := Key{"net", "c", "eth0"}
	release, err := l.take(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.take(short, Key{"net", "c", "eth1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("same container, other interface: %v", err)
	}
	if other, err := l.take(t.Context(), Key{"net", "d", "eth0"}); err != nil {
		t.Error(err)
	} else {
		other()
	}
	release()
	var wg sync.WaitGroup
	inside := 0
	for range 50 {
		wg.Go(func() {
			release, err := l.take(context.Background(), k)
			if err != nil {
				return
			}
			inside++ // the race detector sees it if two are inside
			release()
		})
	}
	wg.Wait()
	if inside != 50 || len(l.held) != 0 {
		t.Errorf("%d of 50 were inside, %d locks are left", inside, len(l.held))
	}
}

func pendingRequest(container string) agentapi.CNIRequest {
	return agentapi.CNIRequest{Command: "DEL", ContainerID: container, IfName: "eth0", Config: []byte(`{"name":"net"}`)}
}

func TestReadPending(t *testing.T) {
	dir := t.TempDir()
	if err := agentapi.WritePending(dir, pendingRequest("c1")); err != nil {
		t.Fatal(err)
	}
	name := agentapi.PendingName("net", pendingRequest("c1"))
	good, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := readPending(filepath.Join(dir, name)); err != nil || r.ContainerID != "c1" {
		t.Errorf("%+v, %v", r, err)
	}
	other := strings.Repeat("0", 64) + ".json"
	for what, c := range map[string]struct {
		name    string
		content []byte
	}{
		"another name":   {"c1.json", good},
		"not its name":   {other, good},
		"no JSON":        {other, []byte("{")},
		"too long":       {other, make([]byte, agentapi.MaxPendingBytes+1)},
		"not a deletion": {agentapi.PendingName("net", agentapi.CNIRequest{ContainerID: "c", IfName: "eth0"}), []byte(`{"command":"ADD","containerID":"c","ifName":"eth0","config":{"name":"net"}}`)},
		"bad container":  {agentapi.PendingName("net", agentapi.CNIRequest{ContainerID: "../c", IfName: "eth0"}), []byte(`{"command":"DEL","containerID":"../c","ifName":"eth0","config":{"name":"net"}}`)},
	} {
		path := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPending(path); !errors.Is(err, errNotPending) && what != "bad container" || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(filepath.Join(dir, name), link); err != nil {
		t.Fatal(err)
	}
	if _, err := readPending(link); !errors.Is(err, errNotPending) {
		t.Errorf("symbolic link: %v", err)
	}
}

func FuzzParsePending(f *testing.F) {
	r := pendingRequest("c1")
	f.Add([]byte(`{"command":"DEL","containerID":"c1","ifName":"eth0","config":{"name":"net"}}`), agentapi.PendingName("net", r))
	f.Add([]byte(`{"command":"DEL","config":null}`), strings.Repeat("0", 64)+".json")
	f.Fuzz(func(t *testing.T, body []byte, name string) {
		r, err := parsePending(body, name)
		if err == nil && (r.Command != "DEL" || strings.ContainsAny(r.ContainerID+r.IfName, "/\x00")) {
			t.Fatalf("passed: %+v", r)
		}
	})
}
