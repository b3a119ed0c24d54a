package policy

import (
	"fmt"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// An Interval is points from Lo to Hi, both included. A point is protocol<<16 | port in host order; for ICMP and ICMPv6 it is
// protocol<<16 | type<<8 | code, and for protocols without ports protocol<<16. With Log, whoever opens such a connection is
// written down.
type Interval = bpf.PolicyInterval

// All is every point.
var All = Interval{Lo: 0, Hi: bpf.MaxPoint}

// Protocols of points beside those of [cluster.Protocol].
const (
	ICMP   cluster.Protocol = 1
	ICMPv6 cluster.Protocol = 58
)

// Point is one port of a protocol.
func Point(protocol cluster.Protocol, port uint16) uint32 { return uint32(protocol)<<16 | uint32(port) }

// Range is the ports from first to last of a protocol.
func Range(protocol cluster.Protocol, first, last uint16) Interval {
	return Interval{Lo: Point(protocol, first), Hi: Point(protocol, last)}
}

// Whole is all of a protocol.
func Whole(protocol cluster.Protocol) Interval { return Range(protocol, 0, 0xffff) }

// describe is for people.
func describe(i Interval) string {
	text := fmt.Sprintf("%s-%s", point(i.Lo), point(i.Hi))
	first, last := cluster.Protocol(i.Lo>>16), cluster.Protocol(i.Hi>>16)
	switch {
	case i.Lo == All.Lo && i.Hi == All.Hi:
		text = "all"
	case i.Lo == i.Hi:
		text = point(i.Lo)
	case first == last && i == (Interval{Lo: Point(first, 0), Hi: Point(first, 0xffff), Log: i.Log}):
		text = first.String()
	case first == last:
		text = fmt.Sprintf("%s-%d", point(i.Lo), i.Hi&0xffff)
	}
	if i.Log {
		text += "+log"
	}
	return text
}

func point(p uint32) string { return fmt.Sprintf("%s/%d", cluster.Protocol(p>>16), p&0xffff) }
