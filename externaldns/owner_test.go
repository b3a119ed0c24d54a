package externaldns

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseOwner(t *testing.T) {
	t.Parallel()
	for id, good := range map[string]bool{
		"prod": true, "a": true, "prod-eu_1": true, "0123456789abcdef": true,
		"": false, "0123456789abcdefg": false, "Prod": false, "a.b": false, "-a": false, "a-": false, "_a": false, "é": false,
	} {
		if owner, err := ParseOwner(id); (err == nil) != good || good && string(owner) != id {
			t.Errorf("ParseOwner(%q) = %q, %v", id, owner, err)
		}
	}
}

func TestRemarkFitsAndComesBack(t *testing.T) {
	t.Parallel()
	object := Object{Kind: "Service", Namespace: "default", Name: "web", UID: "u-1"}
	owner := Owner("0123456789abcdef")
	remark := owner.Remark(object)
	if len(remark) > maxRemark || strings.Trim(remark, "abcdefghijklmnopqrstuvwxyz0123456789_-.") != "" {
		t.Errorf("PrivateZone refuses the remark %q", remark)
	}
	if mark, ok := ParseRemark(remark); !ok || mark != (Mark{owner, HashObject(object)}) {
		t.Errorf("ParseRemark(%q) = %v, %v", remark, mark, ok)
	}
	again := object
	again.UID = "u-2"
	if owner.Remark(again) != remark {
		t.Error("an object made anew has another remark")
	}
	again.Name = "web2"
	if owner.Remark(again) == remark {
		t.Error("another object has the same remark")
	}
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	for remark, want := range map[string]Ownership{
		"np1.me.abc": Ours, "np1.me": Ours, "np1.me.": Ours, "np1.you.abc": Sibling, "": Foreign, "np1": Foreign,
		"np2.me.abc": Foreign, "NP1.me.abc": Foreign, "np1.Me.abc": Foreign, "np1.me.abc hand-made": Foreign,
		"np1.me.abc.d": Foreign, CCMRemark: Foreign, "np1..abc": Foreign,
	} {
		if got := Owner("me").Of(remark); got != want {
			t.Errorf("%q is %s, want %s", remark, got, want)
		}
	}
}

func TestParseHeritage(t *testing.T) {
	t.Parallel()
	full := Heritage{"prod", "service/default/web"}
	for value, want := range map[string]Heritage{
		"heritage=external-dns,external-dns/owner=prod,external-dns/resource=service/default/web":   full,
		`"heritage=external-dns,external-dns/owner=prod,external-dns/resource=service/default/web"`: full,
		"heritage=external-dns;external-dns/owner=prod;external-dns/resource=service/default/web":   full,
		"heritage=external-dns,external-dns/owner=prod":                                             {Owner: "prod"},
		"heritage=other,external-dns/owner=prod":                                                    {},
		"heritage=external-dns":                                                                     {},
		"v=spf1 -all":                                                                               {},
		"":                                                                                          {},
	} {
		got, ok := ParseHeritage(value)
		if ok != (want != Heritage{}) || ok && got != want {
			t.Errorf("ParseHeritage(%q) = %v, %v", value, got, ok)
		}
	}
}

func TestAffixOwned(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		affix             Affix
		txt, name, rrType string
	}{
		{Affix{}, "a-web.corp", "web.corp", "A"},
		{Affix{}, "aaaa-web.corp", "web.corp", "AAAA"},
		{Affix{}, "cname-web.corp", "web.corp", "CNAME"},
		{Affix{}, "web.corp", "web.corp", ""},
		{Affix{Prefix: "edns-"}, "edns-a-web.corp", "web.corp", "A"},
		{Affix{Prefix: "edns-"}, "edns-web.corp", "web.corp", ""},
		{Affix{Prefix: "edns-"}, "web.corp", "", ""},
		{Affix{Suffix: "-own"}, "a-web-own.corp", "web.corp", "A"},
		{Affix{Prefix: "%{record_type}.own."}, "a.own.web.corp", "web.corp", "A"},
	} {
		if name, rrType := c.affix.Owned(c.txt); name != c.name || rrType != c.rrType {
			t.Errorf("%+v: %s stands for %q %q, want %q %q", c.affix, c.txt, name, rrType, c.name, c.rrType)
		}
	}
}

func FuzzParseRemark(f *testing.F) {
	for _, s := range []string{"np1.me.abc", "np1.me", "np1..", "", "np1.me.abc.d", "record.managed.by.ack.ccm", "np1.\xff.a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mark, ok := ParseRemark(s)
		if !ok {
			return
		}
		if _, err := ParseOwner(string(mark.Owner)); err != nil || !utf8.ValidString(s) || len(s) > maxRemark {
			t.Errorf("%q was read as %v: %v", s, mark, err)
		}
	})
}

func FuzzParseHeritage(f *testing.F) {
	f.Add("heritage=external-dns,external-dns/owner=prod,external-dns/resource=service/default/web", "", "a-web.corp")
	f.Add(`"heritage=external-dns;external-dns/owner=a"`, "%{record_type}-", "a-b")
	f.Add("=,,;\"", ".", "...")
	f.Fuzz(func(t *testing.T, value, affix, name string) {
		if h, ok := ParseHeritage(value); ok && h.Owner == "" {
			t.Errorf("%q belongs to nobody", value)
		}
		if owned, _ := (Affix{Prefix: affix}).Owned(name); len(owned) > len(name) {
			t.Errorf("%q stands for the longer %q", name, owned)
		}
	})
}
