package externaldns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
)

// TemplateFields are what a template for names sees of an object.
type TemplateFields struct {
	// Kind is the API's, such as Service. Namespace is empty for a Node.
	Kind, Namespace, Name string
	// Annotations has those under the prefixes of external-dns and nearpath.io only.
	Labels, Annotations map[string]string
	source              Source
}

// isSource is for templates of several sources.
func (f TemplateFields) isSource(name string) (bool, error) {
	if _, ok := wantSources()[Source(strings.ToLower(name))]; !ok {
		return false, fmt.Errorf("isSource: %q is unknown", name)
	}
	return strings.EqualFold(name, string(f.source)), nil
}

// templateFuncs are those of external-dns that make sense here.
func templateFuncs(f TemplateFields) template.FuncMap {
	return template.FuncMap{
		"contains":   strings.Contains,
		"trimPrefix": strings.TrimPrefix,
		"trimSuffix": strings.TrimSuffix,
		"trim":       strings.TrimSpace,
		"toLower":    strings.ToLower,
		"replace":    func(old, by, s string) string { return strings.ReplaceAll(s, old, by) },
		"isIPv4":     func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() },
		"isIPv6":     func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is6() },
		"hasKey":     func(m map[string]string, key string) bool { _, ok := m[key]; return ok },
		"isSource":   f.isSource,
	}
}

// parseTemplates names every template with a fault.
func parseTemplates(texts []string) ([]*template.Template, error) {
	var parsed []*template.Template
	var errs []error
	for i, text := range texts {
		name := fmt.Sprintf("templates[%d]", i)
		t, err := template.New(name).Option("missingkey=error").Funcs(templateFuncs(TemplateFields{})).Parse(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %q: %w", name, text, err))
			continue
		}
		parsed = append(parsed, t)
	}
	return parsed, errors.Join(errs...)
}

// errMissingKey is how text/template says that a map lacks a key; it has no error value for that.
const errMissingKey = "map has no entry for key"

// namesFrom executes the templates and returns what they print, one name each, sorted.
func namesFrom(templates []*template.Template, f TemplateFields) (names []string, err error) {
	var errs []error
	for _, shared := range templates {
		t, err := shared.Clone()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var out strings.Builder
		err = t.Funcs(templateFuncs(f)).Execute(&out, f)
		switch {
		case err == nil:
			names = append(names, splitNames(out.String())...)
		case !strings.Contains(err.Error(), errMissingKey):
			errs = append(errs, err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), errors.Join(errs...)
}

// splitNames reads a list as annotations have it: spaces mean nothing, nor do empty items.
func splitNames(list string) (names []string) {
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.Join(strings.Fields(item), ""); item != "" {
			names = append(names, item)
		}
	}
	return names
}
