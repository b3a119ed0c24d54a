package externaldns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

const testName = "web.corp"

var (
	testPlace = Place{"z-1", "web"}
	web       = Object{Kind: "Service", Namespace: "default", Name: "web"}
	other     = Object{Kind: "Service", Namespace: "default", Name: "other"}
	me        = Policy{Owner: "me"}
)

func want(recordType, value string) Want {
	return Want{Name: testName, Type: recordType, Value: value, TTL: 60, Object: web}
}

// record makes a record from "type value remark", the remark being me, you or empty.
func record(id int64, text string) Record {
	f := strings.Fields(text + " -")
	r := Record{Place: testPlace, ID: id, Type: f[0], Value: f[1], TTL: 60, Enabled: true}
	switch f[2] {
	case "me", "you":
		r.Remark = Owner(f[2]).Remark(web)
	case "other":
		r.Remark = Owner("me").Remark(other)
	}
	return r
}

func records(texts ...string) (list []Record) {
	for i, text := range texts {
		list = append(list, record(int64(i+1), text))
	}
	return list
}

func lines(p Plan) (list []string) {
	for _, op := range p.Ops {
		s := op.String()
		if op.Verb == Remark {
			s = fmt.Sprintf("remark %d", op.Have.ID)
		}
		list = append(list, strings.ReplaceAll(s, testName+" ", ""))
	}
	for _, problem := range p.Problems {
		list = append(list, "! "+problem.Reason)
	}
	return list
}

func with(change func(*Policy)) Policy {
	p := me
	change(&p)
	return p
}

func mode(m Mode) Policy { return with(func(p *Policy) { p.Mode = m }) }

func TestPlan(t *testing.T) {
	t.Parallel()
	hour := want("A", "10.0.0.1")
	hour.TTL = 3600
	disabled := func(text string) []Record {
		r := record(1, text)
		r.Enabled = false
		return []Record{r}
	}
	for name, c := range map[string]struct {
		policy    Policy
		wants     []Want
		have      []Record
		elsewhere []Record
		lines     []string
	}{
		"create":              {me, []Want{want("A", "10.0.0.1")}, nil, nil, []string{"add 60 A 10.0.0.1"}},
		"converged":           {me, []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 me"), nil, nil},
		"change of a value":   {me, []Want{want("A", "10.0.0.2")}, records("A 10.0.0.1 me"), nil, []string{"update A 10.0.0.1: value 10.0.0.2"}},
		"change of a TTL":     {me, []Want{hour}, records("A 10.0.0.1 me"), nil, []string{"update A 10.0.0.1: TTL 60 -> 3600"}},
		"delete":              {me, nil, records("A 10.0.0.1 me", "A 10.0.0.2"), nil, []string{"delete 60 A 10.0.0.1"}},
		"another object":      {me, []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 other"), nil, []string{"remark 1"}},
		"same object pairs":   {me, []Want{want("A", "10.0.0.3")}, records("A 10.0.0.1 other", "A 10.0.0.2 me"), nil, []string{"update A 10.0.0.2: value 10.0.0.3", "delete 60 A 10.0.0.1"}},
		"more and less":       {me, []Want{want("A", "10.0.0.2"), want("A", "10.0.0.3"), want("AAAA", "fd00::1")}, records("A 10.0.0.1 me", "TXT x me"), nil, []string{"update A 10.0.0.1: value 10.0.0.2", "add 60 A 10.0.0.3", "add 60 AAAA fd00::1", "delete 60 TXT x"}},
		"to a CNAME":          {me, []Want{want("CNAME", "a.corp")}, records("A 10.0.0.1 me", "AAAA fd00::1 me"), nil, []string{"delete 60 A 10.0.0.1", "delete 60 AAAA fd00::1", "add 60 CNAME a.corp"}},
		"from a CNAME":        {me, []Want{want("A", "10.0.0.1"), want("A", "10.0.0.2")}, records("CNAME a.corp me"), nil, []string{"delete 60 CNAME a.corp", "add 60 A 10.0.0.1", "add 60 A 10.0.0.2"}},
		"change of a CNAME":   {me, []Want{want("CNAME", "b.corp")}, records("CNAME a.corp me"), nil, []string{"update CNAME a.corp: value b.corp"}},
		"A beats CNAME":       {me, []Want{want("CNAME", "b.corp"), want("A", "10.0.0.1")}, nil, nil, []string{"add 60 A 10.0.0.1", "! CNAMEConflict"}},
		"one CNAME":           {me, []Want{want("CNAME", "b.corp"), want("CNAME", "a.corp.")}, nil, nil, []string{"add 60 CNAME a.corp", "! CNAMEConflict"}},
		"two objects":         {me, []Want{want("A", "10.0.0.1"), {Name: testName, Type: "A", Value: "10.0.0.1", TTL: 60, Object: other}}, records("A 10.0.0.1 other"), nil, nil},
		"duplicates":          {me, []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 me", "A 10.0.0.1 me"), nil, []string{"delete 60 A 10.0.0.1"}},
		"sibling shares":      {me, []Want{want("A", "10.0.0.2")}, records("A 10.0.0.1 you"), nil, []string{"add 60 A 10.0.0.2"}},
		"sibling has it":      {me, []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 you"), nil, nil},
		"foreign has it":      {me, []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1"), nil, nil},
		"claim":               {with(func(p *Policy) { p.Claim = true }), []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1", "A 10.0.0.2"), nil, []string{"remark 1"}},
		"claim no sibling's":  {with(func(p *Policy) { p.Claim = true }), []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 you"), nil, nil},
		"foreign name":        {me, []Want{want("A", "10.0.0.2"), want("AAAA", "fd00::1")}, records("A 10.0.0.1"), nil, []string{"add 60 AAAA fd00::1", "! NameTaken"}},
		"foreign came later":  {me, []Want{want("A", "10.0.0.2")}, records("A 10.0.0.1", "A 10.0.0.3 me"), nil, []string{"update A 10.0.0.3: value 10.0.0.2"}},
		"join":                {with(func(p *Policy) { p.Join = true }), []Want{want("A", "10.0.0.2")}, records("A 10.0.0.1"), nil, []string{"add 60 A 10.0.0.2"}},
		"foreign CNAME":       {with(func(p *Policy) { p.Join = true }), []Want{want("A", "10.0.0.2")}, records("CNAME a.corp"), nil, []string{"! NameTaken"}},
		"sibling's CNAME":     {me, []Want{want("A", "10.0.0.2")}, records("CNAME a.corp you"), nil, []string{"! NameTaken"}},
		"CNAME and foreign":   {me, []Want{want("CNAME", "a.corp")}, records("TXT x"), nil, []string{"! NameTaken"}},
		"disabled by hand":    {me, []Want{want("A", "10.0.0.1")}, disabled("A 10.0.0.1 me"), nil, []string{"delete 60 A 10.0.0.1", "add 60 A 10.0.0.1"}},
		"foreign is disabled": {with(func(p *Policy) { p.Join = true }), []Want{want("A", "10.0.0.1")}, disabled("A 10.0.0.1"), nil, []string{"! NameTaken"}},
		"former owner":        {with(func(p *Policy) { p.Former = []Owner{"you"} }), []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 you", "A 10.0.0.2 you"), nil, []string{"delete 60 A 10.0.0.2", "remark 1"}},
		"another owner id":    {with(func(p *Policy) { p.Owner = "new" }), []Want{want("A", "10.0.0.1")}, records("A 10.0.0.1 me", "A 10.0.0.2 me"), nil, nil},
		"elsewhere":           {me, []Want{want("A", "10.0.0.1")}, nil, records("A 10.0.0.1 me", "A 10.0.0.9"), []string{"add 60 A 10.0.0.1", "delete 60 A 10.0.0.1"}},

		"upsert-only: delete":    {mode(UpsertOnly), nil, records("A 10.0.0.1 me"), nil, nil},
		"upsert-only: elsewhere": {mode(UpsertOnly), nil, nil, records("A 10.0.0.1 me"), nil},
		"upsert-only: values":    {mode(UpsertOnly), []Want{want("A", "10.0.0.3")}, records("A 10.0.0.1 me", "A 10.0.0.2 me", "TXT x me"), nil, []string{"update A 10.0.0.1: value 10.0.0.3", "delete 60 A 10.0.0.2"}},
		"upsert-only: flip":      {mode(UpsertOnly), []Want{want("CNAME", "a.corp")}, records("A 10.0.0.1 me"), nil, []string{"delete 60 A 10.0.0.1", "add 60 CNAME a.corp"}},
		"create-only: create":    {mode(CreateOnly), []Want{want("A", "10.0.0.1"), want("A", "10.0.0.2")}, records("A 10.0.0.1 me"), nil, []string{"add 60 A 10.0.0.2"}},
		"create-only: change":    {mode(CreateOnly), []Want{want("A", "10.0.0.2")}, records("A 10.0.0.1 me"), nil, nil},
		"create-only: TTL":       {mode(CreateOnly), []Want{hour}, records("A 10.0.0.1 me"), nil, nil},
		"create-only: flip":      {mode(CreateOnly), []Want{want("CNAME", "a.corp")}, records("A 10.0.0.1 me"), nil, []string{"! PolicyForbids"}},
		"create-only: delete":    {mode(CreateOnly), nil, records("A 10.0.0.1 me"), nil, nil},
	} {
		got := lines(c.policy.plan(testName, testPlace, c.wants, c.have, c.elsewhere))
		if diff := cmp.Diff(c.lines, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// A modelName is the records at one place and the rules of the API.
type modelName struct {
	records []Record
	next    int64
}

func (m *modelName) find(id int64) int {
	return slices.IndexFunc(m.records, func(r Record) bool { return r.ID == id })
}

// fits says why a record cannot be there: a duplicate, or a CNAME beside others.
func (m *modelName) fits(n Record) error {
	for _, r := range m.records {
		switch {
		case r.ID == n.ID:
		case r.Type == n.Type && r.Value == n.Value && r.Line == n.Line:
			return fmt.Errorf("%v is there as %v", n, r)
		case r.Type == "CNAME" || n.Type == "CNAME":
			return fmt.Errorf("%v excludes %v", r, n)
		}
	}
	return nil
}

func (m *modelName) apply(op Op) error {
	at := m.find(op.Have.ID)
	if op.Verb != Add && (at < 0 || m.records[at] != op.Have) {
		return fmt.Errorf("%s: the record is not there", op)
	}
	n := op.after()
	switch op.Verb {
	case Delete:
		m.records = slices.Delete(m.records, at, at+1)
		return nil
	case Remark:
		m.records[at].Remark = op.Remark
		return nil
	case Update:
		if err := m.fits(n); err != nil {
			return err
		}
		m.records[at] = n
		return nil
	}
	m.next++
	n.ID = m.next
	if err := m.fits(n); err != nil {
		return err
	}
	m.records = append(m.records, n)
	return nil
}

func drawValue(t *rapid.T) (recordType, value string) {
	recordType = rapid.SampledFrom([]string{"A", "A", "A", "AAAA", "TXT", "CNAME"}).Draw(t, "type")
	n := rapid.IntRange(1, 4).Draw(t, "value")
	switch recordType {
	case "A":
		return recordType, fmt.Sprintf("10.0.0.%d", n)
	case "AAAA":
		return recordType, fmt.Sprintf("fd00::%d", n)
	case "CNAME":
		return recordType, fmt.Sprintf("t%d.corp", n)
	}
	return recordType, fmt.Sprintf("text %d", n)
}

// drawModel makes what a cloud may hold at a name.
func drawModel(t *rapid.T) *modelName {
	m := &modelName{}
	for range rapid.IntRange(0, 6).Draw(t, "records") {
		m.next++
		r := Record{Place: testPlace, ID: m.next, TTL: rapid.SampledFrom([]int{60, 3600}).Draw(t, "ttl"), Enabled: rapid.IntRange(0, 9).Draw(t, "enabled") > 0}
		r.Type, r.Value = drawValue(t)
		r.Remark = rapid.SampledFrom([]string{"", "by hand", Owner("me").Remark(web), Owner("me").Remark(other), Owner("you").Remark(web)}).Draw(t, "remark")
		if m.fits(r) == nil {
			m.records = append(m.records, r)
		}
	}
	return m
}

func drawWants(t *rapid.T) (wants []Want) {
	for range rapid.IntRange(0, 4).Draw(t, "wants") {
		w := Want{Name: testName, TTL: rapid.SampledFrom([]int{60, 3600}).Draw(t, "ttl"), Object: rapid.SampledFrom([]Object{web, other}).Draw(t, "object")}
		w.Type, w.Value = drawValue(t)
		wants = append(wants, w)
	}
	return wants
}

func ours(records []Record) (list []Record) {
	return slices.DeleteFunc(slices.Clone(records), func(r Record) bool { return !me.mine(r.Remark) })
}

func others(records []Record) (list []Record) {
	return slices.DeleteFunc(slices.Clone(records), func(r Record) bool { return me.mine(r.Remark) })
}

// serving lists what the records answer, sorted.
func serving(records []Record) (list []string) {
	for _, r := range records {
		if r.Enabled {
			list = append(list, r.Type+" "+r.Value)
		}
	}
	slices.Sort(list)
	return list
}

// expected is what a name with these records shall serve of ours, told without any plan.
func expected(wants []Want, have []Record) (list []string) {
	plain := slices.ContainsFunc(wants, func(w Want) bool { return w.Type != "CNAME" })
	firstCNAME := ""
	for _, w := range wants {
		if w.Type == "CNAME" && (firstCNAME == "" || w.Value < firstCNAME) {
			firstCNAME = w.Value
		}
	}
	for _, w := range wants {
		if w.Type == "CNAME" && (plain || w.Value != firstCNAME) {
			continue
		}
		if !blocked(w, have) {
			list = append(list, w.Type+" "+w.Value)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func blocked(w Want, have []Record) bool {
	for _, r := range ours(have) {
		if r.serves(w.Type, w.Value) {
			return false
		}
	}
	established := slices.ContainsFunc(ours(have), func(r Record) bool { return r.Type == w.Type })
	for _, r := range others(have) {
		if r.Type == "CNAME" || w.Type == "CNAME" || r.Type == w.Type && (r.Value == w.Value || !established && me.Owner.Of(r.Remark) == Foreign) {
			return true
		}
	}
	return false
}

func TestPlanReachesWhatIsWanted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m, wants := drawModel(t), drawWants(t)
		before := slices.Clone(m.records)
		plan := me.plan(testName, testPlace, wants, m.records, nil)
		shuffled := me.plan(testName, testPlace, rapid.Permutation(wants).Draw(t, "wants"), rapid.Permutation(m.records).Draw(t, "records"), nil)
		if diff := cmp.Diff(plan, shuffled); diff != "" {
			t.Fatalf("the plan depends on an order:\n%s", diff)
		}
		flips := slices.ContainsFunc(plan.Ops, func(op Op) bool { return op.Flip })
		kept := slices.ContainsFunc(serving(m.records), func(string) bool { return true }) && len(expected(wants, before)) > 0
		for _, op := range plan.Ops {
			if op.Verb != Add && !me.mine(op.Have.Remark) {
				t.Fatalf("%s: it is not ours", op)
			}
			if err := m.apply(op); err != nil {
				t.Fatal(err)
			}
			if kept && !flips && len(serving(m.records)) == 0 {
				t.Fatalf("the name is empty after %s", op)
			}
		}
		if diff := cmp.Diff(expected(wants, before), serving(ours(m.records)), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("ours:\n%s", diff)
		}
		if diff := cmp.Diff(others(before), others(m.records), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("others:\n%s", diff)
		}
		if again := me.plan(testName, testPlace, wants, m.records, nil); len(again.Ops) > 0 {
			t.Fatalf("the second plan does %v", again.Ops)
		}
	})
}

// TestPlanOfModes holds that a mode does nothing that Sync would not do, and no more than it may.
func TestPlanOfModes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m, wants := drawModel(t), drawWants(t)
		before := slices.Clone(m.records)
		p := mode(rapid.SampledFrom([]Mode{UpsertOnly, CreateOnly}).Draw(t, "mode"))
		for _, op := range p.plan(testName, testPlace, wants, m.records, nil).Ops {
			if p.Mode == CreateOnly && op.Verb != Add {
				t.Fatalf("create-only does %s", op)
			}
			if err := m.apply(op); err != nil {
				t.Fatal(err)
			}
		}
		if again := p.plan(testName, testPlace, wants, m.records, nil); len(again.Ops) > 0 {
			t.Fatalf("the second plan does %v", again.Ops)
		}
		if len(wants) == 0 && !slices.Equal(before, m.records) {
			t.Fatalf("%s deleted a name: %v is left", p.Mode, m.records)
		}
	})
}
