package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// A manifestSet collects the objects of many documents. Objects of kinds we do not read leave nothing but the namespace
// they are in.
type manifestSet struct {
	node    string  // whose pods are read, empty for no pods
	publish kindSet // what is read for publishing, 0 for what a node acts on
	policy  bool    // what policies are and depend on is read, too
	// tolerant refuses an object that cannot be read alone, if it has a name; else an error is one of the whole set.
	tolerant   bool
	objects    Objects
	share      policySharer
	namespaces map[string]struct{}
	defined    map[string]string // where each object was first seen, by kind and name
}

func newManifestSet(node string, publish []Kind) *manifestSet {
	m := &manifestSet{node: node, namespaces: make(map[string]struct{}), defined: make(map[string]string)}
	if len(publish) > 0 {
		m.publish = kindsOf(publish)
	}
	return m
}

// A manifestHeader is what every Kubernetes object begins with.
type manifestHeader struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Items json.RawMessage `json:"items"`
}

func (h *manifestHeader) String() string {
	if h.Metadata.Namespace == "" {
		return h.Kind + " " + h.Metadata.Name
	}
	return h.Kind + " " + h.Metadata.Namespace + "/" + h.Metadata.Name
}

// addFile decodes one file of YAML or JSON documents. Errors name the file, the document (counted from 1, without empty
// ones) and the field.
func (m *manifestSet) addFile(file string, content []byte) error {
	n := 1
	for doc := range documents(content) {
		where := fmt.Sprintf("%s: document %d", file, n)
		object, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if bytes.Equal(object, []byte("null")) {
			continue // empty, or comments only
		}
		if err := m.addObject(where, object, nil); err != nil {
			return err
		}
		n++
	}
	return nil
}

// documents splits a stream of YAML documents, or of JSON values. A marker may be followed by a comment or by content, so it stays with the document it
// begins; the decoder reads one document and would ignore a second one in silence.
func documents(content []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		start, at := 0, 0
		for line := range bytes.Lines(content) {
			if isMarker(line) && at > start {
				if !splitJSON(content[start:at], yield) {
					return
				}
				start = at
			}
			at += len(line)
			if bytes.HasPrefix(line, []byte("...")) && isMarker(line) {
				start = at
			}
		}
		splitJSON(content[start:], yield)
	}
}

// splitJSON yields JSON values that follow each other one by one, anything else whole.
func splitJSON(doc []byte, yield func([]byte) bool) bool {
	for bytes.HasPrefix(bytes.TrimSpace(doc), []byte("{")) {
		values := json.NewDecoder(bytes.NewReader(doc))
		if err := values.Decode(new(json.RawMessage)); err != nil {
			break // YAML has objects in braces too
		}
		end := values.InputOffset()
		if !yield(doc[:end]) {
			return false
		}
		if doc = doc[end:]; len(bytes.TrimSpace(doc)) == 0 {
			return true
		}
	}
	return yield(doc)
}

// isMarker reports whether a line is "---" or "..." alone or before a space: YAML 1.2, 9.1.2.
func isMarker(line []byte) bool {
	rest, begin := bytes.CutPrefix(line, []byte("---"))
	if !begin {
		var end bool
		if rest, end = bytes.CutPrefix(line, []byte("...")); !end {
			return false
		}
	}
	return len(rest) == 0 || bytes.ContainsAny(rest[:1], " \t\r\n")
}

// addObject decodes one object, which may be an item of a list: those of typed lists may leave out what the list says.
func (m *manifestSet) addObject(where string, object []byte, list *manifestHeader) error {
	var h manifestHeader
	if err := json.Unmarshal(object, &h); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	if h.Kind == "" && list != nil && list.Kind != "List" {
		h.APIVersion, h.Kind = list.APIVersion, strings.TrimSuffix(list.Kind, "List")
	}
	if h.APIVersion == "" || h.Kind == "" {
		return fmt.Errorf("%s: apiVersion or kind: missing", where)
	}
	if strings.HasSuffix(h.Kind, "List") && h.Items != nil {
		return m.addItems(where, &h)
	}
	if err := m.addKind(where, &h, object); err != nil {
		return m.refuse(where, &h, fmt.Errorf("%s: %s: %w", where, &h, err))
	}
	return nil
}

// refuse notes an object as one whose last good state stays, or returns the error: when it is not certain which object is
// meant.
func (m *manifestSet) refuse(where string, h *manifestHeader, err error) error {
	name, ok := h.identity()
	if !m.tolerant || !ok || errors.Is(err, errDefinedTwice) {
		return err
	}
	if dup := m.define(where, h.kindName(), name); dup != nil {
		return fmt.Errorf("%s: %s: %w", where, h, dup)
	}
	if name.Namespace != "" {
		m.namespaces[name.Namespace] = struct{}{}
	}
	refusal := Refusal{Kind: h.kindName(), Name: name, Err: err}
	if bad := (*unreadable)(nil); errors.As(err, &bad) {
		refusal.instead = bad.instead
	}
	m.objects.Refused = append(m.objects.Refused, refusal)
	return nil
}

// identity is the object's name in the Snapshot, false for one that is not known.
func (h *manifestHeader) identity() (Name, bool) {
	name := Name{h.Metadata.Namespace, h.Metadata.Name}
	policy := h.policyKind()
	switch {
	case policy != "" && isNamespaced(policy):
		name.Namespace = cmp.Or(name.Namespace, defaultNamespace)
		if checkName("metadata.namespace", name.Namespace, validation.IsDNS1123Label) != nil {
			return name, false
		}
		return name, checkName("metadata.name", name.Name, validation.IsDNS1123Subdomain) == nil
	case policy != "":
		name.Namespace = ""
		return name, checkName("metadata.name", name.Name, validation.IsDNS1123Subdomain) == nil
	}
	switch h.APIVersion + " " + h.Kind {
	case versionCore + " " + kindNode, versionCore + " " + kindNamespace, versionNetworking + " " + kindServiceCIDR:
		name.Namespace = ""
	case versionCore + " " + kindService, versionCore + " " + kindPod, versionDiscovery + " " + kindSlice:
		name.Namespace = cmp.Or(name.Namespace, defaultNamespace)
		if checkName("metadata.namespace", name.Namespace, validation.IsDNS1123Label) != nil {
			return name, false
		}
	default:
		return name, false
	}
	return name, checkName("metadata.name", name.Name, validation.IsDNS1123Subdomain) == nil
}

var errDefinedTwice = errors.New("defined already")

func (m *manifestSet) addItems(where string, list *manifestHeader) error {
	var items []json.RawMessage
	if err := json.Unmarshal(list.Items, &items); err != nil {
		return fmt.Errorf("%s: items: %w", where, err)
	}
	for i, item := range items {
		if err := m.addObject(fmt.Sprintf("%s: items[%d]", where, i), item, list); err != nil {
			return err
		}
	}
	return nil
}

// define refuses an object that is there already: which of the two is meant, nobody can tell.
func (m *manifestSet) define(where, kind string, name Name) error {
	key := kind + " " + name.String()
	if first, ok := m.defined[key]; ok {
		return fmt.Errorf("metadata.name: %w in %s", errDefinedTwice, first)
	}
	m.defined[key] = where
	return nil
}

func (m *manifestSet) result() Objects {
	all := m.objects
	for name := range m.namespaces {
		all.Namespaces = append(all.Namespaces, name)
	}
	if m.policy {
		m.labelNamespaces(&all)
	}
	return all
}
