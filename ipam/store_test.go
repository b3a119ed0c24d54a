package ipam

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// failWrites makes every commit fail from now on, before anything is on disk, until nil is given.
func failWrites(p *Pool, err error) {
	p.journal.turn.Lock()
	defer p.journal.turn.Unlock()
	p.journal.fault = func(committed bool) error {
		if committed {
			return nil
		}
		return err
	}
}

// aside lists the journals that were put aside.
func aside(t *testing.T, c Config) []string {
	t.Helper()
	list, err := filepath.Glob(c.Path + ".*-*")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// keysIn reads the keys of a bucket of a closed journal.
func keysIn(t *testing.T, path, bucket string) (keys []string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(key, _ []byte) error {
			keys = append(keys, string(key))
			return nil
		})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return keys
}

// What a failed write was to delete is deleted by the next one.
func TestFailedDeletionIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(2, 6)
		c := testConfig(t, cloud)
		c.Settings.Watermarks = Watermarks{MinIdle: 0, MaxIdle: 1}
		p := mustOpen(t, c)
		stop := start(t, p)
		for i := range 4 {
			mustAllocate(t, p, i)
		}
		for i := 1; i < 4; i++ {
			if err := p.Release(t.Context(), key(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		cloud.set(func() {
			cloud.fail = func(call string) error {
				if call == "UnassignIPs" {
					failWrites(p, errors.New("the disk is full"))
				}
				return nil
			}
		})
		eventuallyIn(t, time.Hour, "addresses are given back", func() bool { return cloud.count("UnassignIPs") > 0 })
		time.Sleep(5 * time.Second)
		cloud.set(func() { cloud.fail = nil })
		failWrites(p, nil)
		if err := p.Release(t.Context(), key(0), 0); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		p.settings.Watermarks = Watermarks{}
		p.mu.Unlock()
		eventuallyIn(t, 3*time.Hour, "the ENI goes", func() bool { return len(p.ENIs()) == 0 })
		stop()
		if keys := keysIn(t, c.Path, bucketAddresses); len(keys) > 0 {
			t.Errorf("forgotten addresses %v are on disk", keys)
		}
	})
}

// A deleted ENI is as gone as a deleted address, also when it was the write of another caller that failed.
func TestRedoMarksWhatAFailedBatchDeleted(t *testing.T) {
	p := mustOpen(t, testConfig(t, newFakeCloud(2, 6)))
	defer p.Close()
	put := []change{{bucketENIs, "t1", encode(eni{Token: "t1", State: ENIInUse})}, {bucketAddresses, "10.1.0.1", encode(address{Addr: netip.MustParseAddr("10.1.0.1"), ENI: "t1", State: free})}}
	if err := p.flush(p.journal.enqueue(put)); err != nil {
		t.Fatal(err)
	}
	failWrites(p, errors.New("the disk is full"))
	first := p.journal.enqueue([]change{{bucketENIs, "t1", nil}})
	second := p.journal.enqueue([]change{{bucketAddresses, "10.1.0.1", nil}})
	if p.flush(second) == nil || p.flush(first) == nil {
		t.Fatal("the writes succeeded")
	}
	failWrites(p, nil)
	if err := p.update(func(*ledger) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.journal.db.View(func(tx *bolt.Tx) error {
		if tx.Bucket([]byte(bucketENIs)).Get([]byte("t1")) != nil || tx.Bucket([]byte(bucketAddresses)).Get([]byte("10.1.0.1")) != nil {
			return errors.New("a deleted record is on disk")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// An address of no ENI says nothing about the other records.
func TestOrphanAddressIsDropped(t *testing.T) {
	c := testConfig(t, newFakeCloud(2, 6))
	writeOldJournal(t, c.Path)
	p := mustOpen(t, c)
	orphan := address{Addr: netip.MustParseAddr("10.1.0.9"), ENI: "t9", State: releasing}
	if err := errors.Join(p.flush(p.journal.enqueue([]change{{bucketAddresses, "10.1.0.9", encode(orphan)}})), p.Close()); err != nil {
		t.Fatal(err)
	}
	p = mustOpen(t, c)
	if _, ok := p.Lookup(key(1)); !ok || p.rebuild || len(aside(t, c)) > 0 {
		t.Errorf("lease kept %v, rebuild %v, put aside %v", ok, p.rebuild, aside(t, c))
	}
	if p.ledger.addrs[orphan.Addr] != nil {
		t.Error("the orphan is in the ledger")
	}
	if err := errors.Join(p.update(func(*ledger) error { return nil }), p.Close()); err != nil {
		t.Fatal(err)
	}
	for _, k := range keysIn(t, c.Path, bucketAddresses) {
		if k == "10.1.0.9" {
			t.Error("the orphan is on disk")
		}
	}
}

// A node made from the image of another one's disk leaves that one's ENIs alone.
func TestJournalOfAnotherInstanceIsPutAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := newFakeCloud(3, 4)
		c := testConfig(t, cloud)
		p := mustOpen(t, c)
		cloud.set(func() { // the ENI is created and not yet attached, so that the clone could attach it
			cloud.fail = func(call string) error {
				if call == "AttachENI" {
					return aliyun.ErrUnavailable
				}
				return nil
			}
		})
		stop := start(t, p)
		eventually(t, "created", func() bool { return len(cloud.ours()) == 1 })
		time.Sleep(time.Second)
		stop()
		others := p.ENIs()[0].ID
		cloud.set(func() {
			cloud.fail = nil
			cloud.enis["eni-primary2"] = &fakeENI{ENI: aliyun.ENI{ID: "eni-primary2", Type: aliyun.TypePrimary, Status: aliyun.StatusInUse, InstanceID: "i-clone"}}
		})
		c.InstanceID = "i-clone"
		for range 2 { // what the clone begins is its own
			p = mustOpen(t, c)
			if list := aside(t, c); len(list) != 1 || p.Rebuilding() {
				t.Errorf("put aside %v, rebuild %v", list, p.Rebuilding())
			}
			stop = start(t, p)
			time.Sleep(20 * time.Second)
			cloud.set(func() {
				if e := cloud.enis[others]; e == nil || e.InstanceID == "i-clone" || e.Status != aliyun.StatusAvailable {
					t.Errorf("the other instance's ENI is %+v", e)
				}
			})
			stop()
		}
	})
}

// A journal from before it said whose it is becomes this instance's.
func TestJournalGetsItsInstance(t *testing.T) {
	c := testConfig(t, newFakeCloud(2, 6))
	writeOldJournal(t, c.Path)
	for range 2 {
		p := mustOpen(t, c)
		if _, ok := p.Lookup(key(1)); !ok || len(aside(t, c)) > 0 {
			t.Errorf("lease %v, put aside %v", ok, aside(t, c))
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c.InstanceID = "i-clone"
	p := mustOpen(t, c)
	defer p.Close()
	if len(p.Leases()) > 0 || len(aside(t, c)) != 1 || p.Rebuilding() {
		t.Errorf("leases %v, put aside %v, rebuild %v", p.Leases(), aside(t, c), p.Rebuilding())
	}
}
