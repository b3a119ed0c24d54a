package externaldns

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// foreign are records of others, each as it was when it was first seen.
func (c *fakeCloud) foreign(owner Owner) (list []string) {
	for _, r := range c.all("z-1") {
		if owner.Of(r.Remark) != Ours {
			list = append(list, fmt.Sprintf("%+v", r))
		}
	}
	return list
}

// TestMetamorphic draws what is wanted and what others have, and holds what must follow whatever they are: applied twice it
// costs no call, another owner changes nothing, and when nothing is wanted any more the zone is what the others have.
// That the order of events does not matter is TestOrderOfEventsDoesNotMatter's.
func TestMetamorphic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		wanted := map[string][]string{}
		var others []aliyun.ZoneRecord
		for _, rr := range []string{"a", "b", "c", "d", "e"} {
			for range rapid.IntRange(0, 3).Draw(rt, "values") {
				kind, value := drawValue(rt)
				wanted[rr] = append(wanted[rr], kind+" "+value)
			}
			for range rapid.IntRange(0, 2).Draw(rt, "others") {
				kind, value := drawValue(rt)
				remark := rapid.SampledFrom([]string{"", "by hand", CCMRemark, Owner("you").Remark(service("x"))}).Draw(rt, "remark")
				others = append(others, aliyun.ZoneRecord{ZoneID: "z-1", RR: rr, Type: kind, Value: value, TTL: 3600, Remark: remark, Enabled: true, Line: "default"})
			}
		}
		synctest.Test(t, func(t *testing.T) {
			cloud := corp()
			for _, r := range others {
				cloud.edit(r) // what excludes another is not added
			}
			theirs := cloud.foreign("me")
			same := func(when string) {
				if diff := cmp.Diff(theirs, cloud.foreign("me")); diff != "" {
					rt.Fatalf("%s records of others have changed:\n%s", when, diff)
				}
			}
			desired := &fakeDesired{}
			lax := func(c *Config) { c.Limits.Floor = 1000 }
			first := start(t, cloud, desired, lax)
			for rr, values := range wanted {
				first.want(rr, values...)
			}
			wait(30 * time.Second)
			same("after they were joined")
			zone, writes := cloud.shown("z-1"), cloud.writes()

			for rr := range wanted {
				first.Touch(rr + ".corp")
			}
			wait(30 * time.Second)
			first.stop()
			again := start(t, cloud, desired, lax)
			wait(30 * time.Second)
			if n := cloud.writes() - writes; n > 0 || !slices.Equal(zone, cloud.shown("z-1")) {
				rt.Fatalf("the same once more, and a start with it, took %d writes", n)
			}
			again.stop()

			deletes := cloud.deletes()
			other := start(t, cloud, &fakeDesired{}, lax, func(c *Config) { c.Policy.Owner = "new" })
			wait(30 * time.Second)
			if n := cloud.writes() - writes; n > 0 || cloud.deletes() > deletes {
				rt.Fatalf("another owner, who wants nothing, made %d writes", n)
			}
			other.stop()

			last := start(t, cloud, &fakeDesired{}, lax)
			defer last.stop()
			wait(30 * time.Second)
			same("after ours were removed")
			if n := len(cloud.all("z-1")); n != len(theirs) {
				rt.Fatalf("%d records are left, and others have %d", n, len(theirs))
			}
		})
	})
}
