package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// MaxPoint is the largest point.
const MaxPoint = 0xffffff

// A PolicyInterval is a run of points, both ends among them. A point is protocol << 16 | port of TCP, UDP and SCTP, protocol << 16 |
// type << 8 | code of ICMP, and protocol << 16 of any other protocol: [0, MaxPoint] is everything.
type PolicyInterval struct {
	Lo, Hi uint32
	// Log has an event sent when a connection by it begins.
	Log bool
}

// A PolicyKey is what a verdict is about: a policy set, and a class of peers, or 0 for those whose class has no verdict of its own.
type PolicyKey struct{ Set, Class uint64 }

// PutVerdict says what a policy set allows peers of a class: the points of the intervals, which are sorted and disjoint; without
// any, nothing. Errors are ErrFull and ErrIntervals.
func (p *Policy) PutVerdict(k PolicyKey, intervals []PolicyInterval) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.putVerdict(packetVerdictKey{Set: k.Set, Class: k.Class}, intervals); err != nil {
		return fmt.Errorf("put verdict of set %#x and class %#x: %w", k.Set, k.Class, err)
	}
	return nil
}

// ErrIntervals is returned for intervals that are not sorted and disjoint, or that are more than a verdict can have.
var ErrIntervals = errors.New("intervals must be sorted, disjoint, and 65535 at most")

// maxIntervals is what INTERVAL_STEPS halvings find.
const maxIntervals = 1<<16 - 1

func (p *Policy) putVerdict(key packetVerdictKey, intervals []PolicyInterval) error {
	cells, err := intervalCells(intervals)
	if err != nil {
		return err
	}
	old, _, err := p.verdict(key)
	if err != nil {
		return err
	}
	value := packetVerdict{Count: uint32(len(cells)), Echo: verdictEcho(key)}
	switch len(cells) {
	case 0:
	case 1:
		value.One = unpack[packetInterval](cells[0])
	default:
		if value.At, err = p.lists.put(cells, p.grace.wait); err != nil {
			return err
		}
	}
	if err := put(p.maps.Verdicts, key, value, &p.entries); err != nil {
		p.lists.drop(value)
		return err
	}
	p.lists.drop(old)
	return nil
}

// DeleteVerdict takes back what PutVerdict has said; it is no error if nothing was.
func (p *Policy) DeleteVerdict(k PolicyKey) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := packetVerdictKey{Set: k.Set, Class: k.Class}
	old, ok, err := p.verdict(key)
	if err == nil && ok {
		err = remove(p.maps.Verdicts, key, &p.entries)
	}
	if err != nil {
		return fmt.Errorf("delete verdict of set %#x and class %#x: %w", k.Set, k.Class, err)
	}
	p.lists.drop(old)
	return nil
}

// Verdict says what programs make of a point: whether it is allowed, and, if it is, whether by an interval with Log.
func (p *Policy) Verdict(k PolicyKey, point uint32) (allowed, log bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok, err := p.verdict(packetVerdictKey{Set: k.Set, Class: k.Class})
	if err == nil && !ok {
		v, _, err = p.verdict(packetVerdictKey{Set: k.Set})
	}
	if err != nil {
		return false, false, fmt.Errorf("look up verdict of set %#x and class %#x: %w", k.Set, k.Class, err)
	}
	for _, i := range p.intervals(v) {
		if i.Lo <= point && point <= i.Hi {
			return true, i.Log, nil
		}
	}
	return false, false, nil
}

func (p *Policy) verdict(key packetVerdictKey) (v packetVerdict, ok bool, err error) {
	err = p.maps.Verdicts.Lookup(key, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return v, false, nil
	}
	return v, err == nil, err
}

func (p *Policy) intervals(v packetVerdict) []PolicyInterval {
	if v.Count == 1 {
		return []PolicyInterval{decodeInterval(v.One)}
	}
	out := make([]PolicyInterval, 0, v.Count)
	for _, cell := range p.lists.cells[v.At:][:v.Count] {
		out = append(out, decodeInterval(unpack[packetInterval](cell)))
	}
	return out
}

// adoptVerdicts learns which lists are in use. One that no verdict points to is free: a list of an agent that died before it
// could use it, for one.
func (p *Policy) adoptVerdicts() error {
	p.lists.begin()
	err := eachBatch(p.maps.Verdicts, func(_ packetVerdictKey, v packetVerdict) error {
		p.entries++
		return p.lists.adopt(v)
	})
	p.lists.settle()
	return err
}

func verdictEcho(k packetVerdictKey) uint32 {
	return fold([]uint32{uint32(k.Set), uint32(k.Set >> 32), uint32(k.Class), uint32(k.Class >> 32)})
}

// intervalCells checks intervals, and turns them into cells.
func intervalCells(intervals []PolicyInterval) ([]uint64, error) {
	if len(intervals) > maxIntervals {
		return nil, fmt.Errorf("%w: there are %d", ErrIntervals, len(intervals))
	}
	cells := make([]uint64, len(intervals))
	for n, i := range intervals {
		if i.Lo > i.Hi || i.Hi > MaxPoint || n > 0 && intervals[n-1].Hi >= i.Lo {
			return nil, fmt.Errorf("%w: number %d is %#x to %#x", ErrIntervals, n, i.Lo, i.Hi)
		}
		lo := i.Lo
		if i.Log {
			lo |= uint32(packetIntervalFlagsINTERVAL_LOG) << 24
		}
		cells[n] = uint64(i.Hi)<<32 | uint64(lo) // little endian, as all of the programs are
	}
	return cells, nil
}

func decodeInterval(i packetInterval) PolicyInterval {
	return PolicyInterval{Lo: i.Lo & MaxPoint, Hi: i.Hi, Log: i.Lo>>24&uint32(packetIntervalFlagsINTERVAL_LOG) != 0}
}

// An intervalList is in use by refs verdicts.
type intervalList struct {
	extent
	refs int
}

// intervalLists are the lists of policy_ports: equal ones are one.
type intervalLists struct {
	cells     []uint64 // mapped
	byContent map[string]*intervalList
	byCell    map[uint32]*intervalList
	free      free
	limbo     []extent // of lists that programs may still read
}

func (l *intervalLists) begin() {
	l.byContent, l.byCell, l.free, l.limbo = map[string]*intervalList{}, map[uint32]*intervalList{}, free{{0, uint32(len(l.cells))}}, nil
}

// adopt counts a verdict's list.
func (l *intervalLists) adopt(v packetVerdict) error {
	if v.Count < 2 {
		return nil
	}
	if uint64(v.At)+uint64(v.Count) > uint64(len(l.cells)) {
		return fmt.Errorf("a verdict has %d intervals at %d: there are %d cells", v.Count, v.At, len(l.cells))
	}
	list := l.byCell[v.At]
	if list == nil {
		list = &intervalList{extent: extent{v.At, v.Count}}
		l.byCell[v.At] = list
		l.byContent[content(l.cells[v.At:][:v.Count])] = list
	}
	list.refs++
	return nil
}

// settle is called when all lists are adopted.
func (l *intervalLists) settle() {
	var used []extent
	for _, list := range l.byCell {
		used = append(used, list.extent)
	}
	l.free.remove(used)
}

// put returns where the cells are. wait returns when no program reads what was dropped before.
func (l *intervalLists) put(cells []uint64, wait func() error) (uint32, error) {
	key := content(cells)
	if list := l.byContent[key]; list != nil {
		list.refs++
		return list.at, nil
	}
	at, ok := l.free.take(uint32(len(cells)))
	if !ok && len(l.limbo) > 0 {
		if err := l.reclaim(wait); err != nil {
			return 0, err
		}
		at, ok = l.free.take(uint32(len(cells)))
	}
	if !ok {
		return 0, fmt.Errorf("%w: %d intervals, and %d of %d cells are free", ErrFull, len(cells), l.free.cells(), len(l.cells))
	}
	for i, c := range cells {
		atomic.StoreUint64(&l.cells[at+uint32(i)], c)
	}
	list := &intervalList{extent{at, uint32(len(cells))}, 1}
	l.byContent[key], l.byCell[at] = list, list
	return at, nil
}

// reclaim makes the cells of dropped lists free.
func (l *intervalLists) reclaim(wait func() error) error {
	if len(l.limbo) == 0 {
		return nil
	}
	if err := wait(); err != nil {
		return err
	}
	for _, e := range l.limbo {
		l.free.give(e)
	}
	l.limbo = nil
	return nil
}

// drop ends one use of a verdict's list.
func (l *intervalLists) drop(v packetVerdict) {
	list := l.byCell[v.At]
	if v.Count < 2 || list == nil {
		return
	}
	if list.refs--; list.refs > 0 {
		return
	}
	delete(l.byCell, v.At)
	if key := content(l.cells[list.at:][:list.n]); l.byContent[key] == list {
		delete(l.byContent, key)
	}
	l.limbo = append(l.limbo, list.extent)
}

// used is how many cells there are no two uses for.
func (l *intervalLists) used() int {
	n := len(l.cells) - int(l.free.cells())
	for _, e := range l.limbo {
		n -= int(e.n)
	}
	return n
}

// content is a key for lists of equal cells.
func content(cells []uint64) string {
	b := make([]byte, 0, 8*len(cells))
	for _, c := range cells {
		b = binary.NativeEndian.AppendUint64(b, c)
	}
	return string(b)
}
