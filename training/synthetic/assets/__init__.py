"""From the public sources of bodies, clothes, light, backgrounds and motion to the packed asset folder."""
