//go:build node

package crash

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// journalled reads which container has which address, as the journal on disk has it. The agent must be dead.
func (r *rig) journalled(t *testing.T) map[string]netip.Addr {
	t.Helper()
	db, err := bolt.Open(r.node.MachinePath(journalOnNode), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	ok(t, err)
	defer func() { ok(t, db.Close()) }()
	owners := map[string]netip.Addr{}
	ok(t, db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("addresses")).ForEach(func(_, raw []byte) error {
			var record struct {
				Addr  netip.Addr
				State string
				Key   struct{ ContainerID string }
			}
			err := json.NewDecoder(bytes.NewReader(raw)).Decode(&record) // a checksum follows the JSON
			if record.State == "assigned" {
				owners[record.Key.ContainerID] = record.Addr
			}
			return err
		})
	}))
	return owners
}

// metaPages are the two pages at the start of the file, one of which a commit writes after everything else.
var metaPages = 2 * os.Getpagesize()

// watchJournal calls committed whenever the journal on disk has the records of more of the containers, until stop. It
// takes no lock and reads what is there: a page with the record may be there before the commit, so a commit has to follow.
func (r *rig) watchJournal(t *testing.T, pods []*pod, committed func()) (stop func()) {
	t.Helper()
	path := r.node.MachinePath(journalOnNode)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	ok(t, err)
	events := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY)
	ok(t, err)
	w := journalWatch{path: path, committed: committed}
	for _, p := range pods {
		w.keys = append(w.keys, []byte(`"containerID":"`+p.container+`"`))
	}
	w.look()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buffer := make([]byte, 4096)
		for {
			if _, err := events.Read(buffer); err != nil {
				return
			}
			w.look()
		}
	}()
	return func() {
		ok(t, events.Close())
		<-ended
	}
}

type journalWatch struct {
	path      string
	keys      [][]byte
	committed func()

	meta   string // as of the last look
	seen   int    // keys whose pages were there
	booked int    // of these, committed
}

func (w *journalWatch) look() {
	text, err := os.ReadFile(w.path)
	if err != nil || len(text) < metaPages {
		return
	}
	seen := 0
	for _, key := range w.keys {
		if bytes.Contains(text, key) {
			seen++
		}
	}
	meta := string(text[:metaPages])
	before := w.meta
	w.meta = strings.Clone(meta)
	w.seen = max(w.seen, seen)
	if meta == before {
		return
	}
	for ; w.booked < w.seen; w.booked++ {
		w.committed()
	}
}
