package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/nearpath/nearpath/internal/aliyun"
)

const (
	// assignBatch is the most addresses one assignment asks for (the API allows 10 of IPv6); unassignBatch the most one
	// UnassignPrivateIpAddresses call gives back (the API allows 32, and 10 of IPv6).
	assignBatch   = 10
	unassignBatch = 10
	// maxCreated is the most addresses an ENI is created with: the primary one and 49 (CreateNetworkInterface).
	maxCreated = 50
)

type stepKind string

const (
	stepAssign  stepKind = "assign"
	stepCreate  stepKind = "create"
	stepRevive  stepKind = "revive"
	stepConvert stepKind = "convert"
	stepDrain   stepKind = "drain"
	stepRelease stepKind = "release"
)

// A step is one change that the marks ask for. It becomes a plan in the journal, which the ENI's lanes then carry out.
type step struct {
	do     stepKind
	eni    string        // Token; empty when one is to be created
	use    purpose       // what to create, or to convert to
	family aliyun.Family // of what to assign
	count  int           // addresses, or leases that a new ENI is for
	addrs  []netip.Addr  // to release, on any ENIs
}

func (s step) String() string {
	kind := "a shared ENI"
	if s.use == exclusive {
		kind = "an exclusive ENI"
	}
	switch s.do {
	case stepAssign:
		return fmt.Sprintf("assign %d %v addresses to ENI %s", s.count, s.family, s.eni)
	case stepCreate:
		return fmt.Sprintf("create %s for %d leases", kind, s.count)
	case stepConvert:
		return fmt.Sprintf("convert ENI %s to %s", s.eni, kind)
	case stepRelease:
		return "release " + strings.Trim(fmt.Sprint(s.addrs), "[]")
	default:
		return fmt.Sprintf("%s ENI %s", s.do, s.eni)
	}
}

func compareSteps(a, b step) int {
	return cmp.Or(cmp.Compare(a.eni, b.eni), cmp.Compare(a.family, b.family), cmp.Compare(a.do, b.do))
}
