package externaldns

import (
	"errors"
	"slices"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
)

func bound(id, name string, vpcs ...string) aliyun.Zone {
	if len(vpcs) == 0 {
		vpcs = []string{"vpc-1"}
	}
	return aliyun.Zone{ID: id, Name: name, VPCs: vpcs}
}

func unbound(id, name string) aliyun.Zone { return aliyun.Zone{ID: id, Name: name} }

func reasons(problems []Problem) (list []string) {
	for _, p := range problems {
		list = append(list, p.Object.Name+" "+p.Reason)
	}
	return list
}

func TestFindMostSpecificZone(t *testing.T) {
	t.Parallel()
	var z *Zones
	z, problems := z.next([]aliyun.Zone{
		bound("z-corp", "corp"), bound("z-eu", "EU.corp."), bound("z-10", "10.in-addr.arpa"), bound("z-10-1", "1.10.in-addr.arpa"),
		unbound("z-us", "us.corp"),
	}, Scope{})
	if len(problems) > 0 {
		t.Error(problems)
	}
	for name, want := range map[string]Place{
		"web.corp":               {"z-corp", "web"},
		"a.b.corp":               {"z-corp", "a.b"},
		"corp":                   {"z-corp", "@"},
		"*.corp":                 {"z-corp", "*"},
		"*.eu.corp":              {"z-eu", "*"},
		"eu.corp":                {"z-eu", "@"},
		"web.eu.corp":            {"z-eu", "web"},
		"web.neu.corp":           {"z-corp", "web.neu"},
		"web.us.corp":            {"z-corp", "web.us"},
		"4.3.2.10.in-addr.arpa":  {"z-10", "4.3.2"},
		"4.3.1.10.in-addr.arpa":  {"z-10-1", "4.3"},
		"4.3.11.10.in-addr.arpa": {"z-10", "4.3.11"},
		"web.org":                {},
		"xcorp":                  {},
	} {
		got, err := z.find(name)
		if got != want || (err == nil) != (want != Place{}) {
			t.Errorf("%s is at %v (%v), want %v", name, got, err, want)
		}
		if err == nil && z.name(got) != name {
			t.Errorf("%v is %s, want %s", got, z.name(got), name)
		}
	}
	if got := z.places("web.eu.corp"); !slices.Equal(got, []Place{{"z-eu", "web"}, {"z-corp", "web.eu"}}) {
		t.Errorf("records of web.eu.corp may be at %v", got)
	}
}

func TestZonesOfOneName(t *testing.T) {
	t.Parallel()
	var none *Zones
	two := []aliyun.Zone{bound("z-1", "corp", "vpc-1"), bound("z-2", "corp", "vpc-2"), bound("z-3", "org")}

	z, problems := none.next(two, Scope{})
	if _, err := z.find("web.corp"); err == nil || errors.Is(err, errNoZone) {
		t.Errorf("two zones are as good for web.corp: %v", err)
	}
	if got := reasons(problems); !slices.Equal(got, []string{"z-1 ZoneAmbiguous"}) {
		t.Error(got)
	}
	if p, err := z.find("web.org"); err != nil || p.ZoneID != "z-3" {
		t.Errorf("the other zone suffers: %v, %v", p, err)
	}
	for _, scope := range []Scope{{VPCID: "vpc-2"}, {ZoneIDs: []string{"z-2"}}} {
		z, problems := none.next(two, scope)
		if p, err := z.find("web.corp"); err != nil || p.ZoneID != "z-2" || len(problems) > 0 {
			t.Errorf("%+v: %v, %v, %v", scope, p, err, problems)
		}
	}
	z, _ = none.next([]aliyun.Zone{unbound("z-1", "corp"), bound("z-2", "corp")}, Scope{ZoneIDs: []string{"z-1", "z-2"}})
	if p, err := z.find("web.corp"); err != nil || p.ZoneID != "z-2" {
		t.Errorf("an unbound zone keeps the bound one from being used: %v, %v", p, err)
	}
}

func TestZonesThatVanishAreBarred(t *testing.T) {
	t.Parallel()
	var z *Zones
	scope := Scope{}
	z, _ = z.next([]aliyun.Zone{bound("z-1", "corp"), bound("z-2", "eu.corp"), bound("z-3", "org")}, scope)
	z, problems := z.next([]aliyun.Zone{bound("z-1", "corp"), unbound("z-2", "eu.corp")}, scope)
	if got := reasons(problems); !slices.Equal(got, []string{"z-2 ZoneBarred", "z-3 ZoneBarred"}) {
		t.Error(got)
	}
	if p, _ := z.find("web.eu.corp"); p.ZoneID != "z-2" || z.byID["z-2"].barred == "" {
		t.Errorf("names moved to the parent: %v", p)
	}
	if p, _ := z.find("web.org"); p.ZoneID != "z-3" || z.byID["z-3"].barred == "" {
		t.Errorf("a zone was forgotten: %v", p)
	}
	z, problems = z.next([]aliyun.Zone{bound("z-1", "corp"), bound("z-2", "eu.corp"), bound("z-3", "org")}, scope)
	if len(problems) > 0 || z.byID["z-3"].barred != "" || z.byID["z-2"].barred != "" {
		t.Errorf("zones that are back stay barred: %v", problems)
	}
}

func TestZonesNamedInTheConfiguration(t *testing.T) {
	t.Parallel()
	var z *Zones
	z, problems := z.next([]aliyun.Zone{bound("z-1", "corp"), bound("z-2", "eu.corp"), unbound("z-3", "org")},
		Scope{ZoneIDs: []string{"z-1", "z-3", "z-4"}})
	if got := reasons(problems); !slices.Equal(got, []string{"z-4 ZoneNotFound", "z-3 ZoneBarred"}) {
		t.Error(got)
	}
	p, _ := z.find("web.eu.corp")
	if p.ZoneID != "z-1" || z.hidden("web.eu.corp", p) != "z-2" || z.hidden("web.corp", p) != "" {
		t.Errorf("web.eu.corp is at %v, hidden by %q", p, z.hidden("web.eu.corp", p))
	}
}
