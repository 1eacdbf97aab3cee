"""Labels from captions: the nouns of WordNet that stand in them (CatLIP)."""
