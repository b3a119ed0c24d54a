package hostnet

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is set up is not reported, what others change is, once a minute, and what cannot be undone is said to be.
func TestMemory(t *testing.T) {
	var m memory
	now := time.Now()
	wanted, found := twoENIs(), bareNode()
	found.Links[2].Up, found.Links[2].Running = true, true
	pass := func(err error) string {
		now = now.Add(time.Second)
		steps, _ := Build(wanted, found)
		var o outcome
		for _, s := range steps {
			if err != nil {
				o.add(s, err)
			}
		}
		reports := m.judge(wanted, found, steps, o, false, now)
		if err == nil {
			carry(&found, steps)
		}
		var b strings.Builder
		for _, r := range reports {
			b.WriteString(r.reason + ": " + r.message + "\n")
		}
		return b.String()
	}
	must := func(what, got, want string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	const undone = ReasonUndone + ": changed by others and put back: "
	must("set up", pass(nil), "")
	must("nothing to do", pass(nil), "")
	found.Links[2].Group, found.Sysctls[forwardV4] = 0, "0"
	must("changed", pass(nil), "")
	must("put back", pass(nil), undone+"net/ipv4/ip_forward was 0: sysctl -w net/ipv4/ip_forward=1; eth1 was in group 0: ip link set dev eth1 group 28272\n")
	found.Links[2].Group = 0
	must("again", pass(nil), "")
	must("still not", pass(nil), "")
	now = now.Add(reportAgain)
	found.Links[2].Group = 0
	must("later", pass(nil), "")
	must("put back later", pass(nil), undone+"eth1 was in group 0: ip link set dev eth1 group 28272\n")
	found.Routes = nil
	broken := errors.New("no buffer space")
	must("not undone", pass(broken), "")
	must("not undone after a second", pass(broken), ReasonNotUndone+": changed by others and cannot be put back: "+
		"table 1001 had no IPv4 default route: no buffer space; table 1001 had no IPv6 default route: no buffer space\n")
	must("undone later", pass(nil), "")
	must("as wanted", pass(nil), "")
	found.Links[2].Index, found.Routes = 33, nil // the ENI came back as another link
	must("another link", pass(nil), "")
	must("as wanted", pass(nil), "")
	wanted.ENIs[1].Nets = wanted.ENIs[1].Nets[:1]
	must("something else is wanted", pass(nil), "")
	must("as wanted", pass(nil), "")
	found.Rules = nil
	must("rules", pass(nil), "")
	if got := pass(nil); strings.Count(got, "a rule was missing") != 3 {
		t.Errorf("rules: %s", got)
	}
}

// A report fits into an event.
func TestReportsAreShort(t *testing.T) {
	texts := make([]string, 100)
	for i := range texts {
		texts[i] = strings.Repeat("x", 99)
	}
	if got := joined(texts); len(got) > 1024-len("changed by others and cannot be put back: ") || !strings.HasSuffix(got, "; and 91 more") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
