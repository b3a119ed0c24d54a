package ipam

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// errBroken says that the journal's file cannot be believed.
var errBroken = errors.New("the journal is broken")

// errForeign says that the journal is another instance's, as on a disk made from an image of that one's.
var errForeign = errors.New("the journal is another instance's")

// restoreJournal opens the journal and reads it. A broken one is put aside, never deleted, and a new one is begun that
// remembers the loss. Another instance's is put aside as well, and nothing was lost.
func restoreJournal(c Config, cooldown time.Duration, now time.Time) (*journal, *ledger, node, error) {
	j, l, n, err := readJournal(c, cooldown, now)
	isForeign := errors.Is(err, errForeign)
	if !isForeign && !errors.Is(err, errBroken) {
		return j, l, n, err
	}
	kind := ".broken-"
	if isForeign {
		kind = ".foreign-"
	}
	aside := c.Path + kind + now.UTC().Format("20060102T150405.000000000Z")
	if renameErr := os.Rename(c.Path, aside); renameErr != nil {
		return nil, nil, node{}, errors.Join(err, fmt.Errorf("put the journal aside: %w", renameErr))
	}
	if isForeign {
		c.Log.Warn("the journal is another instance's; it was put aside", "file", aside, "err", err)
		return readJournal(c, cooldown, now)
	}
	c.Log.Error("the journal is broken; it was put aside, and what pods use is found out anew", "file", aside, "err", err)
	j, l, n, err = readJournal(c, cooldown, now)
	if err != nil {
		return nil, nil, node{}, err
	}
	j.rebuild = true
	if err := j.wait(j.enqueue([]change{{bucketMeta, metaRebuild, []byte(aside)}})); err != nil {
		return nil, nil, node{}, errors.Join(err, j.close())
	}
	return j, l, n, nil
}

func readJournal(c Config, cooldown time.Duration, now time.Time) (*journal, *ledger, node, error) {
	var (
		j *journal
		l = newLedger(c.Families...)
		n node
	)
	err := guard(func() (err error) {
		if j, err = openJournal(c.Path); err != nil {
			return err
		}
		if n, err = j.load(l, cooldown, now, c.Log); err != nil {
			return err
		}
		return j.claim(c.InstanceID)
	})
	if err != nil && j != nil {
		err = errors.Join(err, guard(j.close))
	}
	if err != nil {
		return nil, nil, node{}, err
	}
	return j, l, n, nil
}

// claim checks whose journal it is. One from before that was recorded is taken as this instance's.
func (j *journal) claim(instanceID string) error {
	return j.db.Update(func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte(bucketMeta))
		switch owner := meta.Get([]byte(metaInstance)); {
		case owner == nil:
			return meta.Put([]byte(metaInstance), []byte(instanceID))
		case string(owner) != instanceID:
			return fmt.Errorf("%w: it is of %s, and this is %s", errForeign, owner, instanceID)
		}
		return nil
	})
}

// guard makes an error of a panic: pages of a broken file lead bbolt astray, also to addresses outside of the file.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%w: %v", errBroken, fault)
		}
	}()
	return f()
}

// verify reads the whole file: every record in this goroutine, where guard holds, and then the tree and the list of free
// pages by bbolt's own check. A file with a wrong list of free pages reads well and breaks with the first write.
func (j *journal) verify() error {
	return j.db.View(func(tx *bolt.Tx) error {
		stat, err := os.Stat(j.db.Path())
		if err != nil {
			return err
		}
		if stat.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d bytes of %d", errBroken, stat.Size(), tx.Size())
		}
		sum := crc32.New(castagnoli)
		err = tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(key, value []byte) error {
				sum.Write(key)
				sum.Write(value)
				return nil
			})
		})
		errs := []error{err}
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		return nil
	})
}

// openFault classes an error of bolt.Open: what the system says of the file does not make it broken.
func openFault(err error) error {
	var path *fs.PathError
	var system syscall.Errno
	if errors.As(err, &path) || errors.As(err, &system) {
		return err
	}
	return fmt.Errorf("%w: %w", errBroken, err)
}
