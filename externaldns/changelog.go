package externaldns

import (
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	// logLag is how late an entry may come into a change log.
	logLag = 2 * time.Minute
	// skew is how far the cloud's clock may be from ours: it refuses requests that are signed earlier or later.
	skew = 15 * time.Minute
	// ownFor is for how long an own write is expected in the log.
	ownFor = 10 * time.Minute
)

// A changeLog reads the change log of a zone on, and subtracts what we have written ourselves.
type changeLog struct {
	first  time.Time // entries from before are in the first listing
	newest time.Time // by the cloud's clock
	read   time.Time // when the last reading began that came to its end
	seen   map[aliyun.ZoneChange]struct{}
	// Writes of ours that the log has not told of: the present ones and those from before the last turn.
	recent, earlier credits
	turned          time.Time
	// Writes of ours that are in flight, by place, and those of them that the log has told of already.
	flying map[Place]int
	ahead  map[Place]int
}

// credits count writes by record, by place and in all: the log may lack the former.
type credits struct {
	ids    map[int64]int
	places map[Place]int
	all    int
}

func newCredits() credits { return credits{map[int64]int{}, map[Place]int{}, 0} }

// begin is called with the beginning of the first listing. Clocks may differ by a second.
func (l *changeLog) begin(started time.Time) {
	*l = changeLog{first: started.Add(-time.Second), newest: started, read: started, flying: map[Place]int{}, ahead: map[Place]int{}}
}

// since is from when on the log is to be read: from before what may still come in late. What came long before the last
// reading is not read again, so that a burst of changes, with nothing after it, does not cost its pages for ever.
func (l *changeLog) since() time.Time {
	since := l.first
	for _, t := range []time.Time{l.newest.Add(-logLag), l.read.Add(-logLag - skew)} {
		if t.After(since) {
			since = t
		}
	}
	return since
}

// fly notes that a write of ours begins.
func (l *changeLog) fly(p Place) { l.flying[p]++ }

// land notes that a write of ours has ended; done says that the log will tell of it, if it has not yet.
func (l *changeLog) land(id int64, p Place, done bool, now time.Time) {
	if l.flying[p]--; l.flying[p] <= 0 {
		delete(l.flying, p)
	}
	ahead := l.ahead[p] > 0
	delete(l.ahead, p)
	if !done || ahead {
		return
	}
	if l.recent.ids == nil || now.Sub(l.turned) > ownFor {
		l.earlier, l.recent, l.turned = l.recent, newCredits(), now
	}
	l.recent.ids[id]++
	l.recent.places[p]++
	l.recent.all++
}

// mine uses up a write of ours for an entry. One entry too many is somebody else's.
func (c *credits) mine(change aliyun.ZoneChange, p Place) bool {
	switch {
	case change.RecordID != 0 && c.ids[change.RecordID] > 0:
		c.ids[change.RecordID]--
	case change.RecordID == 0 && p.RR != "" && c.places[p] > 0:
		c.places[p]--
	case change.RecordID == 0 && p.RR == "" && c.all > 0:
		c.all--
	default:
		return false
	}
	return true
}

// news returns the changes of others that were not returned before. Where says at which place a change was, if it can.
func (l *changeLog) news(changes []aliyun.ZoneChange, now time.Time, where func(aliyun.ZoneChange) Place) (news []aliyun.ZoneChange) {
	if now.Sub(l.turned) > 2*ownFor {
		l.recent, l.earlier = credits{}, credits{}
	}
	seen := make(map[aliyun.ZoneChange]struct{}, len(changes))
	for _, c := range changes {
		seen[c] = struct{}{}
		if c.At.After(l.newest) {
			l.newest = c.At
		}
		if _, old := l.seen[c]; old || c.At.Before(l.first) {
			continue
		}
		p := where(c)
		if l.recent.mine(c, p) || l.earlier.mine(c, p) {
			continue
		}
		if l.flying[p] > 0 {
			l.ahead[p]++ // it may be ours; a look at the place tells
		}
		news = append(news, c)
	}
	l.seen = seen
	return news
}
