package externaldns

import (
	"container/heap"
	"math"
	"time"
)

// A lane is how urgent the work on a name is.
type lane uint8

// The lanes, the most urgent first.
const (
	laneDead    lane = iota // addresses that somebody else may get
	laneFresh               // changes of less than freshFor ago
	laneBacklog             // changes that wait for longer, and what was found at the start
	laneAudit               // looking whether all is as it should be
	lanes                   // how many there are
)

func (l lane) String() string { return [...]string{"dead", "fresh", "backlog", "audit"}[l] }

const (
	freshFor = time.Second
	// A lane that waits gets one turn in turns, whatever is more urgent.
	turns = 8
	// inFlightFor is how much of the cloud client's budget may be under way, in time. Calls that the client has queue up
	// first come first served, so this is what a fresh change waits behind a backlog; less would leave budget unused, as
	// a call takes a tenth of a second or so.
	inFlightFor = 300 * time.Millisecond
	// usualRate is the calls per second when the client does not say.
	usualRate = 20
)

// A class is a kind of call. Each has a budget of its own in the cloud client, so one that is used up must not keep the
// others waiting.
type class uint8

// The classes: a write each, and a search for the records of a name.
const (
	classAdd    = class(Add)
	classUpdate = class(Update)
	classRemark = class(Remark)
	classDelete = class(Delete)
	classFind   = class(verbs)
	classes     = classFind + 1
)

// action is the name of the call in the API, by which its rate is asked for.
func (c class) action() string {
	return [...]string{"AddZoneRecord", "UpdateZoneRecord", "UpdateRecordRemark", "DeleteZoneRecord", "DescribeZoneRecords"}[c]
}

// slots is how many calls may be in flight at the rate.
func slots(perSecond float64) int {
	return max(1, int(math.Round(perSecond*inFlightFor.Seconds())))
}

// An item is a name with something to do. It is in the queue once, however often the name is touched.
type item struct {
	name  string
	lane  lane
	class class
	asked time.Time // when the oldest change came that is not served
	// ticket makes the places in the queue void that the item had before.
	ticket uint64
	busy   bool // a call is in flight
	again  bool // touched meanwhile
	at     int  // in the heap of those that wait for a time, -1: not there
	due    time.Time

	visit    int       // writes that the present visit may still do
	wrote    time.Time // last write
	failures int       // in a row
	unsure   *call     // a write whose outcome is not known
	conflict bool      // the cloud said that what was to be added is there
	// What its plan does to the name's zone.
	zoneID         string
	removals, adds int
	lost           []string // sources that the name was wanted for and is not any more
	waiting        string   // for what, when neither a call nor a time is waited for
}

// A queue orders items by class, lane and time. It makes no calls and knows no clock.
type queue struct {
	items  map[string]*item
	ready  [classes][lanes]fifo
	later  laterHeap
	picks  [classes]int
	ticket uint64
}

func newQueue() *queue { return &queue{items: map[string]*item{}} }

// item returns the name's item and makes it if there is none.
func (q *queue) item(name string) *item {
	it := q.items[name]
	if it == nil {
		it = &item{name: name, at: -1}
		q.items[name] = it
	}
	return it
}

// push makes an item ready, behind the others of its class and lane.
func (q *queue) push(it *item) {
	q.unplan(it)
	q.ready[it.class][it.lane].push(entry{it, it.ticket})
}

// delay makes an item come up at a time.
func (q *queue) delay(it *item, due time.Time) {
	q.unplan(it)
	it.due = due
	heap.Push(&q.later, it)
}

// unplan takes an item out of where it waits.
func (q *queue) unplan(it *item) {
	q.ticket++
	it.ticket, it.waiting = q.ticket, ""
	if it.at >= 0 {
		heap.Remove(&q.later, it.at)
	}
}

// drop forgets an item that has nothing to do.
func (q *queue) drop(it *item) {
	q.unplan(it)
	delete(q.items, it.name)
}

// ripe takes out an item whose time has come.
func (q *queue) ripe(now time.Time) *item {
	if len(q.later) == 0 || q.later[0].due.After(now) {
		return nil
	}
	it := q.later[0]
	q.unplan(it)
	return it
}

// next is when the next item comes up.
func (q *queue) next() (time.Time, bool) {
	if len(q.later) == 0 {
		return time.Time{}, false
	}
	return q.later[0].due, true
}

// pop takes out the item of a class whose turn it is, nil when there is none.
func (q *queue) pop(c class, now time.Time) *item {
	q.age(c, now)
	q.picks[c]++
	switch {
	case q.picks[c]%(2*turns) == 0:
		if it := q.ready[c][laneAudit].pop(); it != nil {
			return it
		}
	case q.picks[c]%turns == 0:
		if it := q.ready[c][laneBacklog].pop(); it != nil {
			return it
		}
	}
	for l := range q.ready[c] {
		if it := q.ready[c][l].pop(); it != nil {
			return it
		}
	}
	return nil
}

// age moves what is fresh no longer to the backlog.
func (q *queue) age(c class, now time.Time) {
	fresh := &q.ready[c][laneFresh]
	for it := fresh.peek(); it != nil && now.Sub(it.asked) >= freshFor; it = fresh.peek() {
		fresh.pop()
		it.lane = laneBacklog
		q.push(it)
	}
}

// depth counts the items by lane, those that wait for a time or a release included.
func (q *queue) depth() (n [lanes]int) {
	for _, it := range q.items {
		n[it.lane]++
	}
	return n
}

// An entry is a place in a fifo. It is void when the item has got another ticket.
type entry struct {
	*item
	ticket uint64
}

// A fifo hands out items in the order they came in.
type fifo struct {
	entries []entry
	head    int
}

func (f *fifo) push(e entry) { f.entries = append(f.entries, e) }

func (f *fifo) peek() *item {
	for f.head < len(f.entries) {
		if e := f.entries[f.head]; e.ticket == e.item.ticket {
			return e.item
		}
		f.skip()
	}
	return nil
}

func (f *fifo) pop() *item {
	it := f.peek()
	if it != nil {
		f.skip()
	}
	return it
}

// skip drops the first entry, and gives the room back from time to time.
func (f *fifo) skip() {
	f.entries[f.head] = entry{}
	if f.head++; f.head > len(f.entries)/2 {
		n := copy(f.entries, f.entries[f.head:])
		clear(f.entries[n:])
		f.entries, f.head = f.entries[:n], 0
	}
}

// A laterHeap has the item that is due first at its root.
type laterHeap []*item

func (h laterHeap) Len() int           { return len(h) }
func (h laterHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h laterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *laterHeap) Push(x any) {
	it := x.(*item)
	it.at = len(*h)
	*h = append(*h, it)
}

// Pop implements heap.Interface.
func (h *laterHeap) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	it.at = -1
	return it
}
