package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// layout is the version of what the store holds. A store of another layout is refused, not guessed at.
const layout = "1"

// Buckets of the store.
const (
	bucketMeta      = "meta"
	bucketENIs      = "enis"      // Token -> eni
	bucketAddresses = "addresses" // address text -> address
)

const (
	metaLayout = "layout"
	metaNode   = "node" // node, as last learned from the cloud
)

// A change is one record to write, or to delete when value is nil.
type change struct {
	bucket string
	key    string
	value  []byte
}

// A journal keeps the ledger on disk. Writers queue their changes in the order in which they happened and then wait; who
// comes first writes for all who have queued, so that many pods starting at once share one fsync.
type journal struct {
	db *bolt.DB

	turn sync.Mutex // held by the writer; guards the fields done and err of queued writes
	mu   sync.Mutex // guards queue
	// queue holds writes in order. It is bounded by the callers, each of whom waits for its own.
	queue []*write

	// fault, if set, is asked before and after each commit and stands for a crash there. Tests set it.
	fault func(committed bool) error
}

type write struct {
	changes []change
	done    bool
	err     error
}

func openJournal(path string) (*journal, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 2 * time.Second, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another process holds it: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	j := &journal{db: db}
	if err := db.Update(j.prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, err), db.Close())
	}
	return j, nil
}

func (j *journal) prepare(tx *bolt.Tx) error {
	for _, name := range []string{bucketMeta, bucketENIs, bucketAddresses} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	switch found := meta.Get([]byte(metaLayout)); {
	case found == nil:
		return meta.Put([]byte(metaLayout), []byte(layout))
	case string(found) != layout:
		return fmt.Errorf("its layout is %q and this program knows %q", found, layout)
	}
	return nil
}

func (j *journal) close() error { return j.db.Close() }

// enqueue keeps the order of changes; it does not block on the disk.
func (j *journal) enqueue(changes []change) *write {
	w := &write{changes: changes}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.queue = append(j.queue, w)
	return w
}

// wait returns when the write is on disk, or when it failed, together with every change enqueued before it.
func (j *journal) wait(w *write) error {
	j.turn.Lock()
	defer j.turn.Unlock()
	if w.done {
		return w.err
	}
	j.mu.Lock()
	batch := j.queue
	j.queue = nil
	j.mu.Unlock()
	err := j.commit(batch)
	for _, one := range batch {
		one.done, one.err = true, err
	}
	return w.err
}

func (j *journal) commit(batch []*write) error {
	if j.fault != nil {
		if err := j.fault(false); err != nil {
			return err
		}
	}
	err := j.db.Update(func(tx *bolt.Tx) error {
		for _, w := range batch {
			for _, c := range w.changes {
				if err := apply(tx, c); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if j.fault != nil {
		return j.fault(true)
	}
	return nil
}

func apply(tx *bolt.Tx, c change) error {
	bucket := tx.Bucket([]byte(c.bucket))
	if c.value == nil {
		return bucket.Delete([]byte(c.key))
	}
	return bucket.Put([]byte(c.key), c.value)
}

// changes takes what became dirty since the last call, as records to write.
func (l *ledger) changes() []change {
	var list []change
	for token := range l.dirtyENIs {
		c := change{bucket: bucketENIs, key: token}
		if e, ok := l.enis[token]; ok {
			c.value = encode(e)
		}
		list = append(list, c)
	}
	for addr := range l.dirtyAddrs {
		c := change{bucket: bucketAddresses, key: addr.String()}
		if a, ok := l.addrs[addr]; ok {
			c.value = encode(a.onDisk())
		}
		list = append(list, c)
	}
	clear(l.dirtyENIs)
	clear(l.dirtyAddrs)
	return list
}

// redo marks everything dirty, after a write failed and the disk is not known to hold what it should.
func (l *ledger) redo() {
	for _, e := range l.enis {
		l.touchENI(e)
	}
	for _, a := range l.addrs {
		l.touchAddr(a)
	}
}

// load fills a ledger from the store.
func (j *journal) load(cooldown time.Duration, now time.Time) (*ledger, node, error) {
	l, n := newLedger(), node{}
	err := j.db.View(func(tx *bolt.Tx) error {
		if raw := tx.Bucket([]byte(bucketMeta)).Get([]byte(metaNode)); raw != nil {
			if err := json.Unmarshal(raw, &n); err != nil {
				return fmt.Errorf("read the node's record: %w", err)
			}
		}
		if err := tx.Bucket([]byte(bucketENIs)).ForEach(l.loadENI(now)); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketAddresses)).ForEach(l.loadAddress(cooldown))
	})
	if err != nil {
		return nil, node{}, fmt.Errorf("load journal: %w", err)
	}
	l.limits = n.Limits
	return l, n, nil
}

func (l *ledger) loadENI(now time.Time) func(key, raw []byte) error {
	return func(key, raw []byte) error {
		var e eni
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("read ENI record %s: %w", key, err)
		}
		if e.State == ENIAttaching {
			e.Since = now // the time it was not polled in does not count against it
		}
		l.enis[e.Token] = &e
		return nil
	}
}

func (l *ledger) loadAddress(cooldown time.Duration) func(key, raw []byte) error {
	return func(key, raw []byte) error {
		var a address
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("read address record %s: %w", key, err)
		}
		if l.enis[a.ENI] == nil {
			return fmt.Errorf("address record %s names ENI record %s, which is not there", key, a.ENI)
		}
		l.restore(a, cooldown)
		return nil
	}
}

// encode cannot fail: the records hold nothing that JSON lacks.
func encode(record any) []byte {
	raw, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", record, err))
	}
	return raw
}
