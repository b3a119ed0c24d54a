package service

import (
	"context"
)

// lowRoom is how many records must be free for a plan; below it, retired ones are waited for first.
const lowRoom = 256

// somethingUsed has reclaim look for what a plan has left.
func (r *Reconciler) somethingUsed() {
	select {
	case r.used <- struct{}{}:
	default:
	}
}

// reclaim gives back what plans leave, once no program can be using it, until ctx ends. That takes some ten milliseconds
// each time, in which the next plan need not wait: what it writes goes to other places.
func (r *Reconciler) reclaim(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.used:
		}
		r.mu.Lock()
		t, all := r.table, 0
		if t != nil {
			all = t.everRetired()
		}
		r.mu.Unlock()
		if err := r.cfg.Maps.Reclaim(); err != nil {
			r.cfg.Log.Error("reclaim what Services have left", "err", err) // it is tried again with the next change
			continue
		}
		r.mu.Lock()
		if t != nil && t == r.table {
			t.release(all)
		}
		r.mu.Unlock()
	}
}

// makeRoom waits for records that were retired when there are few others. The caller holds mu.
func (r *Reconciler) makeRoom(services int) error {
	t := r.table
	if len(t.retired) == 0 || int(t.max-t.next)+len(t.free) >= lowRoom+services {
		return nil
	}
	if err := r.cfg.Maps.Reclaim(); err != nil {
		return err
	}
	t.release(t.everRetired())
	return nil
}

// everRetired counts the records that were retired, those that are free again, too.
func (t *table) everRetired() int { return t.reclaimed + len(t.retired) }

// release makes the records free that were retired when everRetired was all. Meanwhile makeRoom may have made some of them
// free, and a plan may have retired others, which programs may still be using.
func (t *table) release(all int) {
	n := max(0, all-t.reclaimed)
	t.reclaimed += n
	t.free = append(t.free, t.retired[:n]...)
	t.retired = append([]uint32(nil), t.retired[n:]...)
}
