package hostnet

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestUplinksOf(t *testing.T) {
	const eni = 5
	by := func(link, priority int) netlink.Route {
		return netlink.Route{Table: tableMain, LinkIndex: link, Priority: priority}
	}
	paths := func(priority int, links ...int) netlink.Route {
		r := by(0, priority)
		for _, l := range links {
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: l})
		}
		return r
	}
	for name, tt := range map[string]struct {
		routes []netlink.Route
		want   []int
	}{
		"none":                   {nil, nil},
		"one":                    {[]netlink.Route{by(2, 100)}, []int{2}},
		"best first":             {[]netlink.Route{by(3, 200), by(2, 100), by(3, 50)}, []int{3, 2}},
		"an ENI's is better":     {[]netlink.Route{by(eni, 50), by(2, 100)}, []int{2}},
		"an ENI's only":          {[]netlink.Route{by(eni, 50)}, nil},
		"several paths":          {[]netlink.Route{by(4, 200), paths(100, 2, 3, eni)}, []int{2, 3, 4}},
		"another table's":        {[]netlink.Route{{Table: Table(1), LinkIndex: 3}}, nil},
		"one link, two gateways": {[]netlink.Route{by(2, 0), by(2, 0)}, []int{2}},
	} {
		if got := uplinksOf(tt.routes, func(index int) bool { return index == eni }); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
