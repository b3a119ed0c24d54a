package externaldns

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// inherited is a zone with the works of several owners.
func inherited() *fakeCloud {
	c := corp()
	for _, line := range []string{
		"web A 10.0.0.1 -", "web A 10.0.0.2 -", "old A 10.0.0.3 -", "hand A 10.0.0.4 by-hand",
		"ack A 10.0.0.5 " + CCMRemark, "ack-old A 10.0.0.6 " + CCMRemark,
		"sib A 10.0.0.7 " + Owner("you").Remark(service("sib")), "own A 10.0.0.8 " + Owner("me").Remark(service("own")),
		"own A 10.0.0.9 " + Owner("me").Remark(service("own")),
		"a-web TXT heritage=external-dns,external-dns/owner=prod,external-dns/resource=service/default/web -",
		"a-old TXT heritage=external-dns,external-dns/owner=prod,external-dns/resource=service/default/old -",
		"a-hand TXT heritage=external-dns,external-dns/owner=else -",
	} {
		f := strings.Fields(line)
		c.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: f[0], Type: f[1], Value: f[2], Remark: strings.TrimSuffix(f[3], "-"), TTL: 60, Enabled: true})
	}
	return c
}

func inheritors() *fakeDesired {
	d := &fakeDesired{}
	for rr, value := range map[string]string{"hand": "A 10.0.0.4", "ack": "A 10.0.0.5", "sib": "A 10.0.0.7", "own": "A 10.0.0.8"} {
		d.set(rr+".corp", wantsFor(rr, value))
	}
	d.set("web.corp", wantsFor("web", "A 10.0.0.1", "A 10.0.0.2"))
	return d
}

func viewOf(t *testing.T, c *fakeCloud) *View {
	t.Helper()
	v, err := Load(t.Context(), c, Scope{}, me)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		adoption Adoption
		ops      []string // verb and name
		left     []string
	}{
		"nothing":       {Adoption{}, nil, nil},
		"external-dns":  {Adoption{ExternalDNS: "prod"}, []string{"remark web.corp", "remark web.corp"}, []string{"old.corp"}},
		"all of it":     {Adoption{ExternalDNS: "prod", Unwanted: true, RemoveTXT: true}, []string{"remark old.corp", "remark web.corp", "remark web.corp", "delete a-old.corp", "delete a-web.corp"}, nil},
		"its TXT":       {Adoption{ExternalDNS: "prod", RemoveTXT: true}, []string{"remark web.corp", "remark web.corp", "delete a-web.corp"}, []string{"old.corp"}},
		"another":       {Adoption{ExternalDNS: "nobody"}, nil, nil},
		"with a prefix": {Adoption{ExternalDNS: "prod", Affix: Affix{Prefix: "edns-"}}, nil, nil},
		"the provider":  {Adoption{CloudProvider: true}, []string{"remark ack.corp"}, []string{"ack-old.corp"}},
		"a sibling":     {Adoption{Owner: "you"}, []string{"remark sib.corp"}, nil},
		"a name":        {Adoption{Names: []string{"hand.corp", "own.corp"}}, []string{"remark hand.corp"}, nil},
	} {
		cloud := inherited()
		v := viewOf(t, cloud)
		p := v.Adopt(inheritors(), c.adoption)
		var ops, left []string
		for _, op := range p.Ops {
			ops = append(ops, op.Verb.String()+" "+op.Name)
		}
		for _, row := range p.Left {
			left = append(left, row.Name)
		}
		if diff := cmp.Diff([][]string{c.ops, c.left}, [][]string{ops, left}); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if err := Execute(t.Context(), cloud, p.Ops, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if again := viewOf(t, cloud).Adopt(inheritors(), c.adoption); len(again.Ops) > 0 {
			t.Errorf("%s: adopted twice: %v", name, again)
		}
	}
}

func TestAdoptLeavesWhatHasChanged(t *testing.T) {
	t.Parallel()
	cloud := inherited()
	p := viewOf(t, cloud).Adopt(inheritors(), Adoption{ExternalDNS: "prod"})
	r := cloud.all("z-1")[0]
	r.Remark = "claimed meanwhile"
	cloud.edit(r)
	done := 0
	err := Execute(t.Context(), cloud, p.Ops, func(Op, error) { done++ })
	if err == nil || done != 2 || cloud.all("z-1")[0].Remark != "claimed meanwhile" || me.of(cloud.all("z-1")[1].Remark) != Ours {
		t.Errorf("%d done, %v: %v", done, err, cloud.shown("z-1"))
	}
}

func TestAuditReport(t *testing.T) {
	t.Parallel()
	cloud, desired := inherited(), inheritors()
	desired.set("new.corp", wantsFor("new", "A 10.1.1.1"))
	desired.set("nowhere.org", []Want{{Name: "nowhere.org", Type: "A", Value: "10.1.1.1", TTL: 60, Object: web}})
	r := viewOf(t, cloud).Audit(desired)
	z := r.Zones[0]
	want := map[string]int{"nobody known": 4, "cloud provider": 2, "you": 1, "external-dns prod": 2, "external-dns else": 1}
	if diff := cmp.Diff(want, z.By); diff != "" || z.Records != 12 || z.Owned != 2 || z.OK != 1 {
		t.Errorf("%+v\n%s", z, diff)
	}
	if len(r.Orphans) != 1 || r.Orphans[0].Record.Value != "10.0.0.9" || len(r.Missing) != 1 || r.Missing[0].Name != "new.corp" || len(r.Problems) != 1 || r.Clean() {
		t.Errorf("%s", r)
	}
	for _, part := range []string{"zone z-1 (corp): 12 records, 2 ours, 1 of them as wanted", "missing: new.corp 60 A 10.1.1.1 for Service/default/new", "orphan: own.corp 60 A 10.0.0.9", "problem: Service/default/web: NoZone"} {
		if !strings.Contains(r.String(), part) {
			t.Errorf("the report lacks %q:\n%s", part, r)
		}
	}
}

func TestPreviewTellsOfHolds(t *testing.T) {
	t.Parallel()
	cloud := corp()
	cloud.seed("z-1", "me", "web", 30)
	p := viewOf(t, cloud).Plan(desire(10, "web"))
	if len(p.Ops) != 20 || len(p.Holds) != 1 || p.Holds[0].Pending != 20 {
		t.Errorf("%s", p)
	}
	if p := viewOf(t, cloud).Plan(desire(30, "web")); p.String() != "nothing to do\n" {
		t.Errorf("%s", p)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cloud := inherited()
		d := inheritors()
		d.set("taken.corp", wantsFor("taken", "A 10.1.1.1"))
		cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "taken", Type: "A", Value: "10.2.2.2", TTL: 60, Enabled: true})
		cloud.edit(aliyun.ZoneRecord{ZoneID: "z-1", RR: "refused", Type: "TXT", Value: "x", TTL: 60, Enabled: true})
		d.set("refused.corp", wantsFor("refused", "A bad"))
		r := start(t, cloud, d)
		wait(time.Minute)
		for name, parts := range map[string][]string{
			"WEB.corp.":    {"host record web in zone z-1 (corp)", "wanted: 60 A 10.0.0.1 for Service/default/web", "foreign, remark \"\"", "now: nothing to do"},
			"taken.corp":   {"problem: Service/default/taken: NameTaken"},
			"refused.corp": {"to do: add refused.corp 60 A bad", "RecordRefused", "now: waits for"},
			"x.org":        {"no zone for the name", "nothing is wanted"},
			"sib.corp":     {"sibling"},
		} {
			got := r.Explain(name).String()
			for _, part := range parts {
				if !strings.Contains(got, part) {
					t.Errorf("the explanation of %s lacks %q:\n%s", name, part, got)
				}
			}
		}
	})
}

func TestRecordsNameTheirObjects(t *testing.T) {
	t.Parallel()
	rows := viewOf(t, inherited()).Records(inheritors())
	i := slices.IndexFunc(rows, func(r Row) bool { return r.Name == "own.corp" })
	if fmt.Sprintf("%s %s %s", rows[i].Object, rows[i].Owner, rows[i].By) != "Service/default/own ours me" {
		t.Errorf("%+v", rows[i])
	}
}
