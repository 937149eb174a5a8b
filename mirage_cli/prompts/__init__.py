"""Words to weights of looks: the grammar of mixtures, the reader, the sentence encoder, timed prompts."""
