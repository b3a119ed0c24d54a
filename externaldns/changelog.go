package externaldns

import (
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	// logLag is how late an entry may come into a change log.
	logLag = 2 * time.Minute
	// ownFor is for how long an own write is expected in the log.
	ownFor = 10 * time.Minute
)

// A changeLog reads the change log of a zone on, and subtracts what we have written ourselves.
type changeLog struct {
	first  time.Time // entries from before are in the first listing
	newest time.Time // by the cloud's clock
	seen   map[aliyun.ZoneChange]struct{}
	// Writes of ours that the log has not told of: the present ones and those from before the last turn.
	recent, earlier credits
	turned          time.Time
}

// credits count writes by record and by place: the log may lack either.
type credits struct {
	ids    map[int64]int
	places map[Place]int
}

func newCredits() credits { return credits{map[int64]int{}, map[Place]int{}} }

// begin is called with the beginning of the first listing.
func (l *changeLog) begin(started time.Time) {
	l.first, l.newest = started.Add(-5*time.Second), started
}

// since is from when on the log is to be read.
func (l *changeLog) since() time.Time { return l.newest.Add(-logLag) }

// own notes a write of ours.
func (l *changeLog) own(id int64, p Place, now time.Time) {
	if l.recent.ids == nil || now.Sub(l.turned) > ownFor {
		l.earlier, l.recent, l.turned = l.recent, newCredits(), now
	}
	l.recent.ids[id]++
	l.recent.places[p]++
}

// mine uses up a write of ours for an entry. One entry too many is somebody else's.
func (c credits) mine(change aliyun.ZoneChange, p Place) bool {
	switch {
	case change.RecordID != 0 && c.ids[change.RecordID] > 0:
		c.ids[change.RecordID]--
	case change.RecordID == 0 && c.places[p] > 0:
		c.places[p]--
	default:
		return false
	}
	return true
}

// news returns the changes of others that were not returned before.
func (l *changeLog) news(changes []aliyun.ZoneChange, now time.Time) (news []aliyun.ZoneChange) {
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
		p := Place{c.ZoneID, canonicalName(c.RR)}
		if l.recent.mine(c, p) || l.earlier.mine(c, p) {
			continue
		}
		news = append(news, c)
	}
	l.seen = seen
	return news
}
