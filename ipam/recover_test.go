package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// What the earlier layout looked like: one subnet, one assignment, one family, no checksums.
var oldRecords = []struct{ bucket, key, value string }{
	{bucketMeta, metaLayout, "1"},
	{bucketMeta, metaNode, `{"zoneID":"z-1","vSwitchID":"vsw-a","securityGroups":["sg-1"],"limits":{"enis":2,"addressesPerENI":6}}`},
	{bucketENIs, "t1", `{"token":"t1","id":"eni-1","mac":"00:16:3e:00:00:01","state":"in-use","since":"2026-01-02T03:04:05Z","slot":1,` +
		`"vSwitchID":"vsw-a","subnet":"10.1.0.0/16","gateway":"10.1.255.253","primary":"10.1.0.1","assign":{"token":"a1","count":2,"since":"2026-01-02T03:04:05Z"}}`},
	{bucketENIs, "t2", `{"token":"t2","state":"intent","since":"2026-01-02T03:04:05Z","vSwitchID":"vsw-a","subnet":"10.1.0.0/16","gateway":"10.1.255.253","count":3}`},
	{bucketAddresses, "10.1.0.1", `{"addr":"10.1.0.1","eni":"t1","state":"assigned","since":"2026-01-02T03:04:05Z","key":{"network":"net","containerID":"c1","ifName":"eth0"},"pod":{"namespace":"ns","name":"web"}}`},
	{bucketAddresses, "10.1.0.2", `{"addr":"10.1.0.2","eni":"t1","state":"cooling","since":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:35Z"}`},
}

func writeOldJournal(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, r := range oldRecords {
			b, err := tx.CreateBucketIfNotExists([]byte(r.bucket))
			if err != nil {
				return err
			}
			if err := b.Put([]byte(r.key), []byte(r.value)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestJournalOfTheEarlierLayoutIsRead(t *testing.T) {
	c := testConfig(t, newFakeCloud(2, 6))
	writeOldJournal(t, c.Path)
	for range 2 { // as it is, and as it was written again
		p := mustOpen(t, c)
		l, ok := p.Lookup(key(1))
		want := Net{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.1.255.253")}
		if !ok || l.Addrs[0] != netip.MustParseAddr("10.1.0.1") || l.Pod.Name != "web" || l.ENI.Slot != 1 || !slices.Equal(l.ENI.Nets, []Net{want}) {
			t.Errorf("lease is %+v", l)
		}
		p.mu.Lock()
		if a := p.ledger.enis["t1"].assigning(aliyun.IPv4); a.Count != 2 || a.Token != "a1" || p.ledger.enis["t2"].Wish.IPv4 != 3 {
			t.Errorf("calls in flight are %+v, %+v", a, p.ledger.enis["t2"].Wish)
		}
		p.ledger.redo(nil)
		w := p.journal.enqueue(p.ledger.changes())
		p.mu.Unlock()
		if err := errors.Join(p.flush(w), p.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnknownLayoutIsRefused(t *testing.T) {
	c := testConfig(t, newFakeCloud(1, 1))
	p := mustOpen(t, c)
	if err := errors.Join(p.flush(p.journal.enqueue([]change{{bucketMeta, metaLayout, []byte("9")}})), p.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err == nil || errors.Is(err, errBroken) {
		t.Errorf("layout 9: %v", err)
	}
	if _, err := os.Stat(c.Path); err != nil {
		t.Errorf("the journal of a newer program was moved: %v", err)
	}
}

// spoil changes the journal's file.
func spoil(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(raw), 0o600); err != nil {
		t.Fatal(err)
	}
}

func replaced(t *testing.T, raw []byte, old, text string) []byte {
	t.Helper()
	if !bytes.Contains(raw, []byte(old)) {
		t.Fatalf("%s is not in the file", old)
	}
	return bytes.ReplaceAll(raw, []byte(old), []byte(text))
}

// Whatever of the file is broken, the pool opens, puts it aside and starts anew; or nothing that matters was broken.
func TestBrokenJournalIsPutAside(t *testing.T) {
	cases := map[string]func([]byte) []byte{
		"cut in half":  func(raw []byte) []byte { return raw[:len(raw)/2] },
		"one page":     func(raw []byte) []byte { return raw[:4096] },
		"not bolt":     func(raw []byte) []byte { return []byte("not a database, but something that a person put there") },
		"zeros within": func(raw []byte) []byte { clear(raw[8192 : len(raw)-4096]); return raw },
		"ones within": func(raw []byte) []byte {
			for i := 8192; i < len(raw); i++ {
				raw[i] = 0xff
			}
			return raw
		},
		"an address is another": func(raw []byte) []byte { return replaced(t, raw, `"addr":"10.1.0.1"`, `"addr":"10.1.0.9"`) },
		"a state is another":    func(raw []byte) []byte { return replaced(t, raw, `"state":"assigned"`, `"state":"free"    `) },
	}
	for i := range 40 { // each page in turn, at different places
		cases[fmt.Sprintf("bytes at %d", i)] = func(raw []byte) []byte {
			at := 8192 + (i*1777)%(len(raw)-8192-64)
			for k := range 64 {
				raw[at+k] ^= byte(i*31 + k + 1)
			}
			return raw
		}
	}
	for name, broken := range cases {
		t.Run(name, func(t *testing.T) {
			c := testConfig(t, newFakeCloud(2, 6))
			writeOldJournal(t, c.Path)
			p := mustOpen(t, c)
			p.mu.Lock()
			p.ledger.redo(nil) // with checksums
			w := p.journal.enqueue(p.ledger.changes())
			p.mu.Unlock()
			if err := errors.Join(p.flush(w), p.flush(p.journal.enqueue([]change{{bucketMeta, metaNode, encode(p.node)}})), p.Close()); err != nil {
				t.Fatal(err)
			}
			spoil(t, c.Path, broken)
			p = mustOpen(t, c)
			defer p.Close()
			aside, _ := filepath.Glob(c.Path + ".broken-*")
			switch lease, ok := p.Lookup(key(1)); {
			case ok && (len(aside) > 0 || lease.Addrs[0] != netip.MustParseAddr("10.1.0.1")):
				t.Errorf("lease is %v though %v was put aside", lease, aside)
			case !ok && (len(aside) != 1 || !p.rebuild || len(p.ENIs()) > 0):
				t.Errorf("no lease, %v put aside, rebuild %v, ENIs %v", aside, p.rebuild, p.ENIs())
			}
		})
	}
}

// A nodeOfPods says which addresses pods use, or fails.
type nodeOfPods struct {
	err   error
	inUse []InUse
	asked int
}

func (n *nodeOfPods) list(context.Context) ([]InUse, error) {
	n.asked++
	return n.inUse, n.err
}

// After the journal was lost nothing that a pod uses is leased to another, whatever answers and when.
func TestRebuildFromCloudAndNode(t *testing.T) {
	for _, families := range [][]aliyun.Family{dualStack[:1], dualStack} {
		synctest.Test(t, func(t *testing.T) {
			cloud := newFakeCloud(3, 6)
			c := testConfig(t, cloud)
			c.Families = families
			c.Settings.Watermarks = Watermarks{MinIdle: 4, MaxIdle: 5}
			p := mustOpen(t, c)
			stop := start(t, p)
			for i := range 3 {
				mustAllocate(t, p, i)
			}
			exclusively(t, p, 3)
			eventually(t, "idle", func() bool { return p.Stats().Idle >= 4 })
			leases := p.Leases()
			var before []netip.Addr
			for _, addrs := range cloud.ours() {
				before = append(before, addrs...)
			}
			stop()

			spoil(t, c.Path, func(raw []byte) []byte { return raw[:4096] })
			pods := &nodeOfPods{err: errors.New("the runtime does not answer")}
			c.InUse = pods.list
			p = mustOpen(t, c)
			stop = start(t, p)
			eventually(t, "adopted", func() bool { return p.Stats().Unproven > 0 })
			// What the pool gets itself meanwhile is nobody's.
			if l := mustAllocate(t, p, 8); contains(before, l.Addrs[0]) {
				t.Errorf("leased %v without knowing whose it is", l.Addrs)
			}
			stop() // the doubt outlives a restart
			p = mustOpen(t, c)
			defer start(t, p)()
			time.Sleep(10 * time.Minute) // the bubble's clock jumps
			if s := p.Stats(); s.Unproven != len(before) || len(p.Leases()) != 1 {
				t.Errorf("before the node has answered: %+v, of %v", s, before)
			}
			if err := p.Release(t.Context(), key(8), 0); err != nil {
				t.Fatal(err)
			}
			p.mu.Lock()
			for _, l := range leases {
				for _, addr := range l.Addrs {
					pods.inUse = append(pods.inUse, InUse{Addr: addr, Key: l.Key, Pod: l.Pod, Exclusive: l.Exclusive})
				}
			}
			pods.err = nil
			p.mu.Unlock()
			eventually(t, "proven", func() bool { s := p.Stats(); return s.Unproven == 0 && s.Idle >= 4 })
			if got := p.Leases(); len(got) != len(leases) {
				t.Fatalf("leases are %+v, were %+v", got, leases)
			}
			for i, l := range p.Leases() {
				if was := leases[i]; !slices.Equal(l.Addrs, was.Addrs) || l.Key != was.Key || l.Exclusive != was.Exclusive || l.ENI.ID != was.ENI.ID {
					t.Errorf("lease is %+v, was %+v", l, was)
				}
			}
			next := mustAllocate(t, p, 9)
			for _, l := range leases {
				if slices.Contains(l.Addrs, next.Addrs[0]) {
					t.Errorf("%v belongs to %s", next.Addrs, l.Key)
				}
			}
			if p.rebuild {
				t.Error("the rebuild does not end")
			}
		})
	}
}

// Without a way to ask the node, a rebuilt pool leases only what it has got itself since.
func TestRebuildWithoutTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		c := testConfig(t, cloud)
		p := mustOpen(t, c)
		stop := start(t, p)
		old := mustAllocate(t, p, 1)
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		before := cloud.ours()["eni-1"]
		stop()
		spoil(t, c.Path, func(raw []byte) []byte { return raw[:4096] })
		p = mustOpen(t, c)
		defer start(t, p)()
		for i := 2; i < 5; i++ {
			if l := mustAllocate(t, p, i); slices.Contains(before, l.Addrs[0]) {
				t.Errorf("leased %v, which %s may have", l.Addrs, old.Key)
			}
		}
	})
}

// An address that a pod uses and the journal does not know gets its owner back, also in a pool that was never lost.
func TestAdoptedAddressInUseIsNotLeased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(1, 4)
		pods := &nodeOfPods{}
		c := testConfig(t, cloud)
		c.InUse = pods.list
		p := mustOpen(t, c)
		defer start(t, p)()
		mustAllocate(t, p, 1)
		if pods.asked > 0 {
			t.Errorf("asked %d times about addresses that the pool got itself", pods.asked)
		}
		eventually(t, "idle", func() bool { return p.Stats().Idle == 2 })
		var extra netip.Addr
		cloud.set(func() {
			extra = cloud.mint(aliyun.IPv4, 1)[0]
			cloud.enis["eni-1"].PrivateIPs = append(cloud.enis["eni-1"].PrivateIPs, extra)
		})
		p.mu.Lock()
		pods.inUse = []InUse{{Addr: extra, Key: key(7), Pod: Pod{Namespace: "ns", Name: "seven"}}}
		p.resync = time.Now()
		p.mu.Unlock()
		p.kick()
		eventually(t, "the owner is known", func() bool { l, ok := p.Lookup(key(7)); return ok && l.Addrs[0] == extra && l.Pod.Name == "seven" })
		if again := mustAllocate(t, p, 7); again.Addrs[0] != extra {
			t.Errorf("it came back and got %v", again.Addrs)
		}
	})
}
