package sim

import (
	"fmt"
	"maps"
	"slices"
)

// maxTags bounds the tags of an object.
const maxTags = 20

// matchTags requires every wanted tag; a wanted tag without a value asks for the key alone.
func matchTags(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || v != "" && got != v {
			return false
		}
	}
	return true
}

// describeTags lists tags. The products call their fields differently.
func describeTags(tags map[string]string, key, value string) []object {
	items := []object{}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		items = append(items, object{key: k, value: tags[k]})
	}
	return items
}

var (
	tagResourcesParams   = []string{"ResourceType", "ResourceId.N", "Tag.N.Key", "Tag.N.Value"}
	untagResourcesParams = []string{"ResourceType", "ResourceId.N", "TagKey.N", "All"}
)

// Kinds of objects that can be tagged, with the spelling of the API.
const (
	kindENI      = "eni"
	kindInstance = "instance"
	kindGroup    = "securitygroup"
)

func (c *Cloud) tagResources(in input) (object, error) {
	tags, err := in.tags()
	if err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return nil, missing("Tag.1.Key")
	}
	return c.changeTags(in, func(old map[string]string) (map[string]string, error) {
		all := maps.Clone(old)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, tags)
		if len(all) > maxTags {
			return nil, refuse(codeTagQuota, "An object would have %d tags, the limit is %d.", len(all), maxTags)
		}
		return all, nil
	})
}

func (c *Cloud) untagResources(in input) (object, error) {
	keys := in.list("TagKey")
	every := in.text("All") == "true" && len(keys) == 0
	if len(keys) == 0 && !every {
		return nil, missing("TagKey.1")
	}
	return c.changeTags(in, func(old map[string]string) (map[string]string, error) {
		left := maps.Clone(old)
		maps.DeleteFunc(left, func(k, _ string) bool { return every || slices.Contains(keys, k) })
		return left, nil
	})
}

// changeTags changes the tags of every named object or of none.
func (c *Cloud) changeTags(in input, change func(map[string]string) (map[string]string, error)) (object, error) {
	kind, err := in.need("ResourceType")
	if err != nil {
		return nil, err
	}
	ids := in.list("ResourceId")
	switch {
	case kind != kindENI && kind != kindInstance && kind != kindGroup:
		return nil, refuse(codeUnsupportedParameter, "The resource type %q is not supported.", kind)
	case len(ids) == 0:
		return nil, missing("ResourceId.1")
	case len(ids) > 50:
		return nil, invalid("ResourceId.N", fmt.Sprint(len(ids), " values"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var apply []func()
	for _, id := range ids {
		old, set := c.taggable(kind, id)
		if set == nil {
			return nil, refuse(codeResourceNotFound, "The specified resource %q does not exist.", id)
		}
		tags, err := change(old)
		if err != nil {
			return nil, err
		}
		apply = append(apply, func() { set(tags) })
	}
	for _, f := range apply {
		f()
	}
	return object{}, nil
}

// taggable returns the tags of an object and how to replace them; nil: there is none. Tags of an ENI are the one thing
// that changes with Cloud.mu alone: no Fabric call depends on them. The caller holds c.mu.
func (c *Cloud) taggable(kind, id string) (map[string]string, func(map[string]string)) {
	switch kind {
	case kindENI:
		if e := c.enis[id]; e != nil {
			return e.Tags, func(tags map[string]string) { e.Tags = tags; c.note(e) }
		}
	case kindInstance:
		if i := c.instances[id]; i != nil {
			return i.tags, func(tags map[string]string) { i.tags = tags }
		}
	case kindGroup:
		if g := c.groups[id]; g != nil {
			return g.Tags, func(tags map[string]string) { g.Tags = tags }
		}
	}
	return nil, nil
}
