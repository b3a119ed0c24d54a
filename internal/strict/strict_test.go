package strict

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

type inner struct {
	Count int               `json:"count"`
	Names []string          `json:"names"`
	Tags  map[string]string `json:"tags"`
}

type shared struct {
	Shared bool `json:"shared"`
}

type outer struct {
	shared
	Addr   netip.Addr     `json:"addr"`
	Ratio  float64        `json:"ratio"`
	Limits map[string]int `json:"limits"`
	Inner  inner          `json:"inner"`
	Maybe  *int           `json:"maybe"`
	Hidden string         `json:"-"`
}

func TestUnmarshalLaysOver(t *testing.T) {
	t.Parallel()
	got := outer{Ratio: 0.5, Inner: inner{Count: 7, Names: []string{"kept"}}}
	err := Unmarshal([]byte("addr: 10.0.0.1\nshared: true\nmaybe: 3\ninner: {count: null, tags: {a: b}}\nlimits: {x: 1}"), &got)
	if err != nil {
		t.Fatal(err)
	}
	three := 3
	want := outer{
		shared: shared{true}, Addr: netip.MustParseAddr("10.0.0.1"), Ratio: 0.5, Limits: map[string]int{"x": 1}, Maybe: &three,
		Inner: inner{Count: 7, Names: []string{"kept"}, Tags: map[string]string{"a": "b"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

// TestEveryFault: each fault is told, with its path and value; what has none is stored.
func TestEveryFault(t *testing.T) {
	t.Parallel()
	var got outer
	err := Unmarshal([]byte(`{"addr":"nowhere","ratio":"x","inner":{"count":1.5,"names":["a",2],"cuont":1,"tags":[]},"limits":{"y":true,"z":2},"hidden":1}`), &got)
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	want := []string{
		`addr: "nowhere": `, `hidden: "1": no such key: here are `, `inner.count: "1.5": use a whole number`,
		`inner.cuont: "1": no such key: did you mean count?`, `inner.names[1]: "2": use text`,
		`inner.tags: "[]": use a mapping`, `limits.y: "true": use a whole number`, `ratio: "x": use a number`,
	}
	if len(lines) != len(want) {
		t.Fatalf("%d faults, want %d:\n%s", len(lines), len(want), err)
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w) {
			t.Errorf("fault %d is %q, want it to begin with %q", i, lines[i], w)
		}
	}
	if got.Limits["z"] != 2 || got.Inner.Names[0] != "a" {
		t.Errorf("values without fault are lost: %+v", got)
	}
}

func TestNotWellFormed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"{", "a: b: c", "count: 1\ncount: 2", `{"a":`} {
		if err := Unmarshal([]byte(text), &inner{}); err == nil || !strings.Contains(err.Error(), "well-formed") {
			t.Errorf("%q gives %v", text, err)
		}
	}
	if err := Unmarshal([]byte("just text"), &inner{}); err == nil || !strings.Contains(err.Error(), "mapping") {
		t.Errorf("text for a mapping gives %v", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	err := Check([]Rule{{true, "a", 1, "x"}, {false, "b.c", 2, "use 3"}, {false, "d", "", "set it"}})
	if diff := cmp.Diff("b.c: \"2\": use 3\nd: \"\": set it", err.Error()); diff != "" {
		t.Error(diff)
	}
	if Check(nil) != nil {
		t.Error("no rule and yet a fault")
	}
}

func TestDistanceIsOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		a, b := rapid.StringMatching(`[a-z]{0,8}`).Draw(rt, "a"), rapid.StringMatching(`[a-z]{0,8}`).Draw(rt, "b")
		d := distance(a, b)
		if d != distance(b, a) || (d == 0) != (a == b) || d > max(len(a), len(b)) {
			rt.Fatalf("distance of %q and %q is %d, the other way %d", a, b, d, distance(b, a))
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("inner: {count: 1}"))
	f.Add([]byte(`{"limits":{"a":1},"addr":"::1"}`))
	f.Add([]byte("- a\n- b"))
	f.Fuzz(func(t *testing.T, text []byte) { _ = Unmarshal(text, &outer{}) })
}
