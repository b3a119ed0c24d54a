package cni

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func shapedAs(d Datapath, limits Limits) Shaped {
	s := Shaped{Datapath: d, HostLink: "np0", PodLink: "eth0", MTU: 1500, Limits: limits}
	switch d {
	case IPVlan:
		s.HostLink = ""
	case Exclusive:
		s.SideLink = "npside"
	}
	return s
}

func printed(ops []Op) string {
	var lines []string
	for _, op := range ops {
		lines = append(lines, op.String())
	}
	return strings.Join(lines, "\n")
}

func TestPlanShaping(t *testing.T) {
	for _, tt := range []struct {
		datapath Datapath
		limits   Limits
		want     string
	}{
		{Veth, Limits{Ingress: 10_000_000, Egress: 1_000_000_000}, `
host: tc qdisc replace dev np0 root handle 6e70: tbf rate 10000000bit burst 25000b limit 264000b
pod: tc qdisc replace dev eth0 root handle 6e70: tbf rate 1000000000bit burst 1250000b limit 6250000b`},
		{IPVlan, Limits{Ingress: 1_000_000, Egress: 100_000_000}, `
pod: ip link add npin type ifb
pod: ip link set dev npin up
pod: tc qdisc replace dev eth0 root handle 6e70: tbf rate 100000000bit burst 132000b limit 625000b
pod: tc qdisc replace dev npin root handle 6e70: tbf rate 1000000bit burst 3036b limit 27500b
pod: tc qdisc add dev eth0 clsact
pod: tc filter add dev eth0 ingress pref 28272 protocol all u32 match u32 0 0 action mirred egress redirect dev npin`},
		{Exclusive, Limits{Egress: 1000}, `
pod: ip link add npout type ifb
pod: ip link set dev npout up
pod: tc qdisc replace dev npout root handle 6e70: tbf rate 1000bit burst 3036b limit 9108b
pod: tc qdisc add dev eth0 clsact
pod: tc filter add dev eth0 egress pref 28273 protocol all u32 match u32 0 0 action mirred egress redirect dev npout
pod: tc qdisc add dev npside clsact
pod: tc filter add dev npside egress pref 28273 protocol all u32 match u32 0 0 action mirred egress redirect dev npout`},
		{Exclusive, Limits{}, "\n"},
	} {
		ops := planShaping(newShaping(), wantedShaping(shapedAs(tt.datapath, tt.limits)))
		if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), printed(ops)); diff != "" {
			t.Errorf("%s, %+v (-want +got):\n%s", tt.datapath, tt.limits, diff)
		}
	}
}

// TestPlanUnshaping: what goes, goes in an order in which no packet is lost to a device that is gone.
func TestPlanUnshaping(t *testing.T) {
	for _, tt := range []struct {
		datapath Datapath
		want     string
	}{
		{Veth, "host: tc qdisc del dev np0 root handle 6e70:\npod: tc qdisc del dev eth0 root handle 6e70:"},
		{Exclusive, `pod: tc filter del dev eth0 egress pref 28273
pod: tc filter del dev eth0 ingress pref 28272
pod: tc filter del dev npside egress pref 28273
pod: tc filter del dev npside ingress pref 28272
pod: ip link del npin
pod: ip link del npout`},
	} {
		have := after(newShaping(), planShaping(newShaping(), wantedShaping(shapedAs(tt.datapath, Limits{minLimit, maxLimit}))))
		ops := planShaping(have, wantedShaping(shapedAs(tt.datapath, Limits{})))
		if diff := cmp.Diff(tt.want, printed(ops)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.datapath, diff)
		}
	}
}

// after is what there is once the changes are made.
func after(have shaping, ops []Op) shaping {
	s := shaping{maps.Clone(have.roots), maps.Clone(have.ifbs), maps.Clone(have.hooks), maps.Clone(have.clsact)}
	for _, op := range ops {
		switch o := op.(type) {
		case SetUp:
			s.ifbs[o.Link] = true
		case AddIFB:
			s.ifbs[o.Link] = false
		case DeleteIFB:
			delete(s.ifbs, o.Link)
			delete(s.roots, device{InPod, o.Link})
		case SetBucket:
			old, there := s.roots[device{o.Side, o.Link}]
			if o.Change != (there && old.handle == o.Handle) {
				panic(fmt.Sprintf("%s, where the handle is %x", o, old.handle))
			}
			if !o.Change {
				old.backlog = 0
			}
			s.roots[device{o.Side, o.Link}] = root{o.bucket, o.Handle, old.backlog}
		case DeleteBucket:
			delete(s.roots, device{o.Side, o.Link})
		case AddClsact:
			s.clsact[o.Link] = true
		case Redirect:
			if !s.clsact[o.Link] || !s.ifbs[o.To] {
				panic(o.String() + " comes too early")
			}
			s.hooks[hook{o.Link, o.dir}] = o.To
		case DeleteRedirect:
			delete(s.hooks, hook{o.Link, o.dir})
		default:
			panic(op.String())
		}
		for h, to := range s.hooks {
			if _, ok := s.ifbs[to]; !ok {
				panic(fmt.Sprintf("after %q packets of %v go to %q, which is not there", op, h, to))
			}
		}
	}
	return s
}

// TestPlanShapingConverges goes from any limits to any others, with any amount waiting and with parts missing.
func TestPlanShapingConverges(t *testing.T) {
	limit := rapid.OneOf(rapid.Just(uint64(0)), rapid.Uint64Range(minLimit, maxLimit), rapid.SampledFrom([]uint64{minLimit, 10_000_000, 1_000_000_000, maxLimit}))
	rapid.Check(t, func(rt *rapid.T) {
		d := rapid.SampledFrom([]Datapath{Veth, IPVlan, Exclusive}).Draw(rt, "datapath")
		have := newShaping()
		for i := range 4 {
			limits := Limits{limit.Draw(rt, "ingress"), limit.Draw(rt, "egress")}
			want := wantedShaping(shapedAs(d, limits))
			ops := planShaping(have, want)
			have = after(have, ops)
			if left := planShaping(have, want); len(left) > 0 {
				rt.Fatalf("step %d: after\n%s\nthere is left:\n%s", i, printed(ops), printed(left))
			}
			if len(have.roots) != len(want.roots) || len(have.ifbs) != len(want.ifbs) || len(have.hooks) != len(want.hooks) {
				rt.Fatalf("step %d: there is %+v, want %+v", i, have, want)
			}
			for dev, r := range have.roots {
				r.backlog = rapid.Uint32Range(0, r.limit).Draw(rt, "backlog")
				have.roots[dev] = r
				if rapid.Bool().Draw(rt, "lost") {
					delete(have.roots, dev)
				}
			}
		}
	})
}

func TestSetBucket(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to uint64
		waits    time.Duration // at the old rate
		change   bool
	}{
		{"raised", 10_000_000, 1_000_000_000, 50 * time.Millisecond, true},
		{"raised from cut up packets", 1_000_000, 30_000_000, 50 * time.Millisecond, true},
		{"lowered, little waits", 1_000_000_000, 100_000_000, 20 * time.Millisecond, true},
		{"lowered, too much waits", 1_000_000_000, 100_000_000, 26 * time.Millisecond, false},
		{"lowered to where packets are cut up", 100_000_000, 1_000_000, 0, false},
		{"lowered where they were cut up before", 8_000_000, 2_000_000, 0, false},
	} {
		from, to := bucketOf(tt.from, 1500), bucketOf(tt.to, 1500)
		d := device{OnHost, "np0"}
		have := map[device]root{d: {from, handleOther, uint32(bytesIn(from.rate, tt.waits))}}
		op, needed := setBucket(d, have, to)
		if !needed || op.Change != tt.change || (op.Handle == handleOther) != tt.change {
			t.Errorf("%s: %v, %s", tt.name, needed, op)
		}
	}
}

// TestBucketOf: a bucket holds a frame, at common limits a whole packet of segmentation offload, and neither it nor the
// queue is long, except where a frame is.
func TestBucketOf(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bits := rapid.Uint64Range(minLimit, maxLimit).Draw(rt, "bits")
		mtu := rapid.IntRange(576, 9000).Draw(rt, "mtu")
		b := bucketOf(bits, mtu)
		frames := uint64(2 * (mtu + frameMore))
		if b.burst() < frames || bits >= 27_000_000 && b.burst() < wholeGSO || b.limit == 0 {
			rt.Fatalf("too small: %s", b)
		}
		if b.burst() > frames+bytesIn(b.rate, maxSlack)+10 || uint64(b.limit) > 3*frames+bytesIn(b.rate, maxFloor)+10 {
			rt.Fatalf("too long: %s", b)
		}
	})
}
