package cni

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// How a limit is kept.
//
// A token bucket with a short queue (sch_tbf) is what pods' TCP gets along with: dropping without a queue, as a policer
// in BPF does, brought one connection to 26 to 30 % of its limit at 10, 100 and 1000 Mbit/s, and a bucket to 95 %, in
// the same place with the same burst of 50 ms. A bucket works on what leaves a link. What a pod sends, leaves the pod's
// own link, and what it receives leaves the node's end of a veth pair; other datapaths have no such end, nor does one
// link carry all that an exclusive pod sends. There an intermediate device (ifb) in the pod's namespace has the bucket,
// and packets are redirected through it before they go on as they were.
const (
	ifbIngress = "npin"
	ifbEgress  = "npout"
)

// What a bucket is made of. See bucketOf.
const (
	// wholeGSO is more than the kernel makes of one send or merges at one receipt, and its frame's header: a bucket
	// smaller than a packet must cut it up.
	wholeGSO  = 66_000
	frameMore = 18 // an Ethernet header with a VLAN tag

	minBurst = 10 * time.Millisecond
	maxSlack = 20 * time.Millisecond // what a bucket for two whole packets may be worth
	minQueue = 50 * time.Millisecond
	maxFloor = 220 * time.Millisecond // what a queue for whole packets may be worth
	maxStale = 250 * time.Millisecond // how long what waits may go on waiting when a limit is lowered
)

// psched is the kernel's unit of time for buckets (PSCHED_SHIFT in include/net/pkt_sched.h, the same since 2.6.31).
const psched = 64 * time.Nanosecond

// A bucket is the parameters of sch_tbf.
type bucket struct {
	rate  uint64 // bytes of Ethernet frames per second
	ticks uint32 // how long the burst takes at this rate, in psched
	limit uint32 // bytes that may wait
}

// bucketOf is the bucket for a limit in bits per second on links of an MTU.
//
// The burst is 10 ms: with 5 ms a busy machine, whose timers are late by some, moved 88 to 95 % of 1 Gbit/s. Below 100
// Mbit/s it is up to two whole packets of segmentation offload, so that none is cut up, but not more than 20 ms, so that
// below 26 Mbit/s packets are cut up after all. The queue is 50 ms, or four whole packets where that is more, which is what
// a socket sends before it waits for them to leave; but not more than 220 ms. Both bounds were found at 10 Mbit/s: with a
// burst of 54 ms or a queue of 100 ms, one BBR connection sent 5 to 20 % of its segments again, and with these none.
func bucketOf(bits uint64, mtu int) bucket {
	rate, frames := bits/8, 2*uint64(mtu+frameMore)
	burst := max(bytesIn(rate, minBurst), min(2*wholeGSO, bytesIn(rate, maxSlack)), frames)
	limit := max(bytesIn(rate, minQueue), min(4*wholeGSO, bytesIn(rate, maxFloor)), 3*frames)
	return bucket{rate: rate, ticks: ticksOf(burst, rate), limit: uint32(min(limit, math.MaxUint32))}
}

func bytesIn(rate uint64, d time.Duration) uint64 { return uint64(float64(rate) * d.Seconds()) }

func ticksOf(burst, rate uint64) uint32 {
	ns := math.Ceil(float64(burst) * float64(time.Second) / float64(rate))
	return uint32(min(math.Ceil(ns/float64(psched)), math.MaxUint32))
}

func (b bucket) burst() uint64 {
	return uint64(float64(b.ticks) * float64(psched) * float64(b.rate) / float64(time.Second))
}

func (b bucket) String() string {
	return fmt.Sprintf("tbf rate %dbit burst %db limit %db", 8*b.rate, b.burst(), b.limit)
}

// A device is a link on one side.
type device struct {
	side Side
	link string
}

// A root is a bucket of ours that a device has for all that leaves it, and the bytes that wait there now.
type root struct {
	bucket
	handle  uint16
	backlog uint32
}

// Buckets of ours have one of two handles: the kernel changes parameters if asked for the handle that is there, and puts a
// new, empty bucket in place of the old one if asked for another.
const (
	handleOurs  = 0x6e70
	handleOther = 0x6e71
)

// A direction is that of a hook on a link.
type direction string

const (
	inwards  direction = "ingress"
	outwards direction = "egress"
)

// A hook is where packets of a pod's link are redirected.
type hook struct {
	link string
	dir  direction
}

// A shaping is what there is, or is to be, of one pod's limits.
type shaping struct {
	roots  map[device]root
	ifbs   map[string]bool // whether up
	hooks  map[hook]string // the device packets go to; empty if there is none of that index
	clsact map[string]bool // the pod's links that have the qdisc for hooks
}

func newShaping() shaping {
	return shaping{roots: map[device]root{}, ifbs: map[string]bool{}, hooks: map[hook]string{}, clsact: map[string]bool{}}
}

// wantedShaping is how a pod with limits is shaped.
func wantedShaping(pod Shaped) shaping {
	want, mtu := newShaping(), cmp.Or(pod.MTU, 1500)
	egress, ingress := device{InPod, pod.PodLink}, device{OnHost, pod.HostLink}
	switch pod.Datapath {
	case IPVlan:
		ingress = device{InPod, ifbIngress}
	case Exclusive:
		egress, ingress = device{InPod, ifbEgress}, device{InPod, ifbIngress}
	}
	for _, one := range []struct {
		device
		bits uint64
		dir  direction
	}{{egress, pod.Limits.Egress, outwards}, {ingress, pod.Limits.Ingress, inwards}} {
		if one.bits == 0 {
			continue
		}
		want.roots[one.device] = root{bucket: bucketOf(one.bits, mtu)}
		if one.link != ifbIngress && one.link != ifbEgress {
			continue
		}
		want.ifbs[one.link] = true
		want.hooks[hook{pod.PodLink, one.dir}] = one.link
		if pod.Datapath == Exclusive {
			want.hooks[hook{pod.SideLink, one.dir}] = one.link
		}
	}
	return want
}

// The changes that shape a pod.
type (
	// SetBucket gives a device a bucket for what leaves it. Change keeps what waits in the one that is there.
	SetBucket struct {
		Side   Side
		Link   string
		Handle uint16
		Change bool
		bucket
	}
	// DeleteBucket gives the device the kernel's own queue back.
	DeleteBucket struct {
		Side   Side
		Link   string
		Handle uint16
	}
	// AddIFB makes an intermediate device in the pod.
	AddIFB struct{ Link string }
	// DeleteIFB deletes it, and its bucket with it.
	DeleteIFB struct{ Link string }
	// AddClsact gives a link of the pod the hooks for Redirects. It stays: programs may be there as well.
	AddClsact struct{ Link string }
	// Redirect sends what enters or leaves a link of the pod through an intermediate device.
	Redirect struct {
		Link string
		dir  direction
		To   string
	}
	// DeleteRedirect lets it go its way again.
	DeleteRedirect struct {
		Link string
		dir  direction
	}
)

// priority is that of our filters, behind all programs. It differs by direction, because cls_u32 lists the filters of a
// qdisc's both directions for either, if only their priority is the same.
func (d direction) priority() uint16 {
	if d == outwards {
		return 0x6e71
	}
	return 0x6e70
}

func (o SetBucket) String() string {
	verb := "replace"
	if o.Change {
		verb = "change"
	}
	return fmt.Sprintf("%s: tc qdisc %s dev %s root handle %x: %s", o.Side, verb, o.Link, o.Handle, o.bucket)
}
func (o DeleteBucket) String() string {
	return fmt.Sprintf("%s: tc qdisc del dev %s root handle %x:", o.Side, o.Link, o.Handle)
}
func (o AddIFB) String() string    { return "pod: ip link add " + o.Link + " type ifb" }
func (o DeleteIFB) String() string { return "pod: ip link del " + o.Link }
func (o AddClsact) String() string { return "pod: tc qdisc add dev " + o.Link + " clsact" }
func (o Redirect) String() string {
	return fmt.Sprintf("pod: tc filter add dev %s %s pref %d protocol all u32 match u32 0 0 action mirred egress redirect dev %s",
		o.Link, o.dir, o.dir.priority(), o.To)
}
func (o DeleteRedirect) String() string {
	return fmt.Sprintf("pod: tc filter del dev %s %s pref %d", o.Link, o.dir, o.dir.priority())
}

// planShaping brings have to want. No packet meets a device that is gone or has no bucket yet: redirects go first and
// come last.
func planShaping(have, want shaping) []Op {
	have.hooks, have.clsact = maps.Clone(have.hooks), maps.Clone(have.clsact)
	return slices.Concat(have.drop(want), have.devices(want), have.redirects(want))
}

// drop takes away what is not wanted, from have as well.
func (have shaping) drop(want shaping) (ops []Op) {
	for _, h := range sortedHooks(have.hooks) {
		if to := have.hooks[h]; to == "" || to != want.hooks[h] {
			ops = append(ops, DeleteRedirect{h.link, h.dir})
			delete(have.hooks, h)
		}
	}
	for _, d := range sortedDevices(have.roots) {
		_, wanted := want.roots[d]
		if _, ifb := have.ifbs[d.link]; !wanted && !ifb {
			ops = append(ops, DeleteBucket{d.side, d.link, have.roots[d].handle})
		}
	}
	for _, link := range slices.Sorted(maps.Keys(have.ifbs)) {
		if !want.ifbs[link] {
			ops = append(ops, DeleteIFB{link})
		}
	}
	return ops
}

// devices makes intermediate devices and buckets.
func (have shaping) devices(want shaping) (ops []Op) {
	for _, link := range slices.Sorted(maps.Keys(want.ifbs)) {
		up, there := have.ifbs[link]
		if !there {
			ops = append(ops, AddIFB{link})
		}
		if !up {
			ops = append(ops, SetUp{InPod, link})
		}
	}
	for _, d := range sortedDevices(want.roots) {
		if op, needed := setBucket(d, have.roots, want.roots[d].bucket); needed {
			ops = append(ops, op)
		}
	}
	return ops
}

// redirects adds those that are missing.
func (have shaping) redirects(want shaping) (ops []Op) {
	for _, h := range sortedHooks(want.hooks) {
		if have.hooks[h] == want.hooks[h] {
			continue
		}
		if !have.clsact[h.link] {
			have.clsact[h.link] = true
			ops = append(ops, AddClsact{h.link})
		}
		ops = append(ops, Redirect{h.link, h.dir, want.hooks[h]})
	}
	return ops
}

// setBucket changes a bucket's parameters in place where it can. It cannot where a packet may wait that the new bucket
// could never hold, since the kernel would wait for that forever; and it does not where what waits would take long at the
// new rate. There a new bucket takes the place, and the packets are dropped that the new limit would not have let in.
func setBucket(d device, have map[device]root, want bucket) (SetBucket, bool) {
	op := SetBucket{Side: d.side, Link: d.link, Handle: handleOurs, bucket: want}
	old, there := have[d]
	if !there {
		return op, true
	}
	if old.bucket == want {
		return op, false
	}
	fits := want.burst() >= min(old.burst(), wholeGSO)
	soon := uint64(old.backlog) <= bytesIn(want.rate, maxStale)
	op.Change = fits && soon
	if op.Handle = old.handle; !op.Change {
		op.Handle = handleOurs + handleOther - old.handle
	}
	return op, true
}

func sortedHooks(m map[hook]string) []hook {
	return slices.SortedFunc(maps.Keys(m), func(a, b hook) int {
		return cmp.Or(cmp.Compare(a.link, b.link), cmp.Compare(a.dir, b.dir))
	})
}

func sortedDevices(m map[device]root) []device {
	return slices.SortedFunc(maps.Keys(m), func(a, b device) int {
		return cmp.Or(cmp.Compare(a.side, b.side), cmp.Compare(a.link, b.link))
	})
}
