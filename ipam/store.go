package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// layout is the version of what the store holds; a store of layout 1, from before there were two families, is read as
// well and becomes one of this layout. Any other is refused, not guessed at.
const (
	layout    = "2"
	oldLayout = "1"
)

// Buckets of the store.
const (
	bucketMeta      = "meta"
	bucketENIs      = "enis"      // Token -> eni
	bucketAddresses = "addresses" // address text -> address
)

const (
	metaLayout   = "layout"
	metaNode     = "node"     // node, as last learned from the cloud
	metaInstance = "instance" // whose journal it is
	// metaRebuild holds where the broken journal is that this one replaces, until what pods use is known again.
	metaRebuild = "rebuild"
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

	// rebuild says, as of opening, that the journal replaces a broken one.
	rebuild bool

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
		return nil, fmt.Errorf("open %s: %w", path, openFault(err))
	}
	j := &journal{db: db}
	if err := guard(j.verify); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), guard(db.Close))
	}
	if err := db.Update(j.prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, err), db.Close())
	}
	err = db.View(func(tx *bolt.Tx) error {
		j.rebuild = tx.Bucket([]byte(bucketMeta)).Get([]byte(metaRebuild)) != nil
		return nil
	})
	return j, err
}

func (j *journal) prepare(tx *bolt.Tx) error {
	for _, name := range []string{bucketMeta, bucketENIs, bucketAddresses} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte(bucketMeta))
	switch found := meta.Get([]byte(metaLayout)); {
	case found == nil || string(found) == oldLayout:
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

// redo marks everything dirty, after a write failed and the disk is not known to hold what it should. What the write was
// to delete is in the ledger no more, so its own records are marked as well.
func (l *ledger) redo(failed []change) {
	for _, c := range failed {
		switch c.bucket {
		case bucketENIs:
			l.dirtyENIs[c.key] = struct{}{}
		case bucketAddresses:
			if addr, err := netip.ParseAddr(c.key); err == nil {
				l.dirtyAddrs[addr] = struct{}{}
			}
		}
	}
	for _, e := range l.enis {
		l.touchENI(e)
	}
	for _, a := range l.addrs {
		l.touchAddr(a)
	}
}

// load fills a ledger from the store.
func (j *journal) load(l *ledger, cooldown time.Duration, now time.Time, log *slog.Logger) (node, error) {
	var n node
	err := j.db.View(func(tx *bolt.Tx) error {
		if raw := tx.Bucket([]byte(bucketMeta)).Get([]byte(metaNode)); raw != nil {
			if err := decode(raw, &n); err != nil {
				return fmt.Errorf("read the node's record: %w", err)
			}
		}
		if err := tx.Bucket([]byte(bucketENIs)).ForEach(l.loadENI(now)); err != nil {
			return err
		}
		return tx.Bucket([]byte(bucketAddresses)).ForEach(l.loadAddress(cooldown, log))
	})
	if err != nil {
		return node{}, fmt.Errorf("load journal: %w: %w", errBroken, err)
	}
	return n, nil
}

func (l *ledger) loadENI(now time.Time) func(key, raw []byte) error {
	return func(key, raw []byte) error {
		e, err := decodeENI(raw)
		if err != nil || e.Token != string(key) {
			return fmt.Errorf("read ENI record %s: its token is %q: %w", key, e.Token, err)
		}
		if e.State == ENIAttaching {
			e.Since = now // the time it was not polled in does not count against it
		}
		e.unclear = true
		l.enis[e.Token] = &e
		return nil
	}
}

// decodeENI reads a record of this layout or of the one before, which had one subnet and one assignment, of IPv4.
func decodeENI(raw []byte) (eni, error) {
	var record struct {
		eni
		Subnet  netip.Prefix `json:"subnet"`
		Gateway netip.Addr   `json:"gateway"`
		Count   int          `json:"count"`
		Assign  *assignment  `json:"assign"`
	}
	if err := decode(raw, &record); err != nil {
		return eni{}, err
	}
	e := record.eni
	if record.Subnet.IsValid() {
		e.Nets = []Net{{record.Subnet, record.Gateway}}
	}
	if record.Count > 0 {
		e.Wish.IPv4 = record.Count
	}
	if record.Assign != nil {
		record.Assign.Family = aliyun.IPv4
		e.Assigns = []assignment{*record.Assign}
	}
	return e, nil
}

func (l *ledger) loadAddress(cooldown time.Duration, log *slog.Logger) func(key, raw []byte) error {
	return func(key, raw []byte) error {
		var a address
		if err := decode(raw, &a); err != nil || a.Addr.String() != string(key) {
			return fmt.Errorf("read address record %s: it is about %s: %w", key, a.Addr, err)
		}
		if l.enis[a.ENI] == nil {
			// Nothing can be done with it: if the ENI is there after all, it is adopted and its addresses with it.
			log.Warn("address record without its ENI record dropped", "ip", a.Addr, "eni", a.ENI, "owner", a.Key)
			l.touchAddr(&a)
			return nil
		}
		l.restore(a, cooldown)
		return nil
	}
}

// sumLength is that of what encode adds: a line end and a CRC-32C in hexadecimal.
const sumLength = 1 + 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode cannot fail: the records hold nothing that JSON lacks.
func encode(record any) []byte {
	raw, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", record, err))
	}
	return fmt.Appendf(raw, "\n%08x", crc32.Checksum(raw, castagnoli))
}

// decode reads a record and its checksum. Records of the earlier layout have none and end with the JSON.
func decode(raw []byte, record any) error {
	if text := len(raw) - sumLength; text > 0 && raw[text] == '\n' {
		if want := fmt.Sprintf("%08x", crc32.Checksum(raw[:text], castagnoli)); want != string(raw[text+1:]) {
			return fmt.Errorf("its checksum is %s and should be %s", raw[text+1:], want)
		}
		raw = raw[:text]
	}
	return json.Unmarshal(raw, record)
}
